"""Host memory that a checkpoint passes through, allocated once and used for every save."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from portable.device.protocol import Device
from portable.train.checkpoint.slice import Slice


class Staging:
    """Holds one host buffer a slice, pinned where the device has such memory, so that copies queue up and the
    host waits once for all of them. Costs the model's and optimiser's size on this rank, in host memory.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._buffers: dict[str, Tensor] = {}

    def buffers(self, slices: Mapping[str, Slice]) -> dict[str, Slice]:
        """Return slices like ``slices`` on the host, whose values do not matter."""
        return {
            name: Slice(self._buffer(name, found.data), found.whole_shape, found.offset)
            for name, found in slices.items()
        }

    def copy(self, slices: Mapping[str, Slice]) -> dict[str, Slice]:
        """Return copies of ``slices`` on the host, in torch's plain layout, good until the next call."""
        copies = self.buffers(slices)
        for name, found in slices.items():
            plain = self.device.to_portable(found.data.detach())
            copies[name].data.copy_(plain, non_blocking=True)
        self.device.synchronize()
        return copies

    def _buffer(self, name: str, like: Tensor) -> Tensor:
        held = self._buffers.get(name)
        if held is None or held.shape != like.shape or held.dtype != like.dtype:
            # A transposed parameter's buffer must not be transposed too: files hold rows in order.
            held = self.device.pin(torch.empty(like.shape, dtype=like.dtype))
            self._buffers[name] = held
        return held
