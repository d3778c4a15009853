"""Micro-batches on their way to the device: copied on a stream of their own, one ahead of the one in use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portable.core.record import Batch
from portable.device.protocol import Device
from portable.device.stream import Event

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class _Copy:
    """A batch whose copy has been queued, and the mark behind that copy."""

    batch: Batch
    done: Event


class Transfer:
    """Copies batches to ``target``, a device of the family ``device``."""

    def __init__(self, device: Device, target: torch.device) -> None:
        self.device = device
        self.target = target
        self._stream = device.new_stream()

    def each(self, batches: Sequence[Batch]) -> Iterator[Batch]:
        """Yield every batch on the device; while one is computed with, the next is being copied."""
        ahead = self._start(batches[0]) if batches else None
        for following in (*batches[1:], None):
            if ahead is None:
                return
            copy, ahead = ahead, None if following is None else self._start(following)
            yield self._arrive(copy)

    def _start(self, batch: Batch) -> _Copy:
        with self.device.use_stream(self._stream):
            # Pinned host memory is what lets the copy run while the host and the device go on.
            copied = batch.map(self.device.pin).to(self.target)
            return _Copy(copied, self._stream.record_event())

    def _arrive(self, copy: _Copy) -> Batch:
        """Let the compute stream wait for the copy, and the allocator know who uses it."""
        stream = self.device.current_stream()
        stream.wait_event(copy.done)
        for tensor in copy.batch.tensors():
            self.device.record_stream(tensor, stream)
        return copy.batch
