"""Lets gradients travel while the backward pass still runs, bucket by bucket, in one order on all ranks."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from portable.core.errors import CapabilityError
from portable.device.protocol import Device
from portable.parallel.strategies.bucket import Bucket


class Reducer:
    """Watches the gradients of all buckets' members.

    A bucket travels when it is full and all before it have gone, on a stream of its own where the device has
    streams; whatever is left goes when the backward pass ends. A backward pass that this object is not told
    of (a pipeline schedule runs its own) only fills buckets, and they travel in ``finish``.
    """

    def __init__(self, buckets: Sequence[Bucket], device: Device) -> None:
        self.buckets = buckets
        self._device = device
        self._stream = device.new_stream()
        self._sends = False
        self._next = 0
        self._travelled = False
        # A hook lives as long as its parameter, in torch's memory, where Python finds no cycles: it may not
        # keep what keeps the parameter.
        own: weakref.ref[Reducer] = weakref.ref(self)
        for place, bucket in enumerate(buckets):
            for index, member in enumerate(bucket.members):
                member.parameter.register_post_accumulate_grad_hook(partial(_arrived, own, place, index))

    def begin(self, *, sends: bool) -> None:
        """Before a backward pass: say whether its gradients travel."""
        self._sends = sends
        self._next = 0
        for bucket in self.buckets:
            bucket.begin_pass()

    def end(self) -> None:
        """After a backward pass: let go what did not fill, too."""
        if self._sends:
            self._send(lambda bucket: True)
            self._travelled = True
        self._sends = False

    def finish(self) -> None:
        """Let everything travel that has not, and give the optimiser its gradients."""
        if not self._travelled:
            self.begin(sends=True)
            for bucket in self.buckets:
                for index in range(len(bucket.members)):
                    bucket.take(index)  # whoever assigns gradients by hand passes the hooks by
            self.end()
        self._device.current_stream().wait_stream(self._stream)
        for bucket in self.buckets:
            bucket.hand_over()

    def reset(self) -> None:
        """Forget the step's gradients."""
        self._travelled = False
        for bucket in self.buckets:
            bucket.reset()

    def take(self, place: int, index: int) -> None:
        """Take the gradient of a member of the bucket at ``place``; let go what is full."""
        bucket = self.buckets[place]
        if self._travelled and bucket.keeps_whole:
            raise CapabilityError(
                f"the gradient of {bucket.members[index].name} grew after the sum over ranks had been made; "
                "call accumulate(last=True) before the last backward pass of a step only"
            )
        bucket.take(index)
        if self._sends:
            self._send(lambda waiting: waiting.is_full)

    def _send(self, goes: Callable[[Bucket], bool]) -> None:
        """Let buckets go, in order, as long as ``goes`` says so."""
        while self._next < len(self.buckets) and goes(self.buckets[self._next]):
            bucket = self.buckets[self._next]
            self._next += 1
            self._stream.wait_stream(self._device.current_stream())
            held = bucket.buffers
            with self._device.use_stream(self._stream):
                bucket.send()
            for buffer in held:
                self._device.record_stream(buffer, self._stream)


def _arrived(own: weakref.ref[Reducer], place: int, index: int, parameter: nn.Parameter) -> None:
    reducer = own()
    if reducer is not None:
        reducer.take(place, index)
