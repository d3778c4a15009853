"""The CPU as a device: one per process, whatever its index."""

from __future__ import annotations

import contextlib
import platform
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import torch

from backends.cpu.capability import cpu_capability
from backends.cpu.memory import PeakMeter, return_freed_memory, total_and_free_bytes, used_bytes
from backends.cpu.processor import cpu_title, usable_cores
from backends.cpu.stream import HostEvent, HostStream
from portable.device.capability import Capability, Feature
from portable.device.protocol import DeviceInfo, Dtype, Memory


class CpuDevice:
    """Processes share the processor: every index is the same device, and there is nothing to wait for."""

    name = "cpu"
    torch_type = "cpu"

    def __init__(self) -> None:
        self._peak = PeakMeter()
        self._main_stream = HostStream()
        self._in_use = threading.local()  # as torch's streams, the current one is the thread's own

    @cached_property
    def vendor(self) -> str:
        """The maker's name, from the processor's title."""
        title = cpu_title().lower()
        known = {"amd": "amd", "intel": "intel", "kunpeng": "huawei", "hisilicon": "huawei", "apple": "apple"}
        return next((vendor for word, vendor in known.items() if word in title), platform.machine())

    @cached_property
    def arch(self) -> str:
        """The widest instruction set that torch uses here, e.g. ``avx512``."""
        level = torch.backends.cpu.get_cpu_capability().lower()
        return platform.machine() if level == "default" else level

    def count(self) -> int:
        """Return 1."""
        return 1

    def torch_device(self, index: int = 0) -> torch.device:
        """Return the one CPU device."""
        return torch.device("cpu")

    def set_index(self, index: int) -> None:
        """Do nothing: the system places processes on cores."""

    def info(self, index: int = 0) -> DeviceInfo:
        """Describe the processor and its memory."""
        return DeviceInfo(cpu_title(), self.vendor, self.arch, usable_cores(), total_and_free_bytes()[0])

    def capability(self) -> Capability:
        """Return what torch can do on this processor."""
        return self._capability

    @cached_property
    def _capability(self) -> Capability:
        return cpu_capability(self.arch)

    def supports(self, feature: Feature) -> bool:
        """Return whether the processor has ``feature``."""
        return self._capability.supports(feature)

    def synchronize(self) -> None:
        """Return at once: work on the CPU is done when its call returns."""

    def new_stream(self) -> HostStream:
        """Return a stream."""
        return HostStream()

    def current_stream(self) -> HostStream:
        """Return the stream of the block that this thread is in."""
        return getattr(self._in_use, "stream", self._main_stream)

    @contextlib.contextmanager
    def use_stream(self, stream: Any) -> Generator[None, None, None]:  # Any: a HostStream
        """Make ``stream`` the current one inside the block."""
        before = self.current_stream()
        self._in_use.stream = stream
        try:
            yield
        finally:
            self._in_use.stream = before

    def new_event(self, *, timing: bool = False) -> HostEvent:
        """Return a mark that is not set yet."""
        return HostEvent(timing=timing)

    def record_stream(self, tensor: torch.Tensor, stream: Any) -> None:  # Any: a HostStream
        """Do nothing: no work outlives its call."""

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return ``tensor``: there is nowhere to copy it to."""
        return tensor

    def to_portable(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return ``tensor``, whose layout is torch's own."""
        return tensor

    def empty_cache(self) -> None:
        """Give freed memory that the C library keeps back to the system."""
        return_freed_memory()

    def memory(self, index: int = 0) -> Memory:
        """Return figures in bytes; used and peak are this process's resident memory."""
        total, free = total_and_free_bytes()
        return Memory(
            total_bytes=total, free_bytes=free, used_bytes=used_bytes(), peak_bytes=self._peak.read()
        )

    def reset_peak_memory(self) -> None:
        """Start counting the peak anew."""
        self._peak.reset()

    def seed(self, seed: int) -> None:
        """Seed torch's host generator, which is this device's."""
        torch.manual_seed(seed)

    def rng_state(self) -> Any:  # Any: opaque by the Protocol
        """Return the generator's state."""
        return torch.get_rng_state()

    def set_rng_state(self, state: Any) -> None:  # Any: opaque by the Protocol
        """Restore it."""
        torch.set_rng_state(state)

    def generator(self, seed: int) -> torch.Generator:
        """Return a fresh stream."""
        return torch.Generator().manual_seed(seed)

    def autocast(self, dtype: Dtype) -> AbstractContextManager[None]:
        """Run matmuls in ``dtype`` inside the block."""
        return contextlib.nullcontext() if dtype is Dtype.fp32 else _autocast(dtype)

    def set_deterministic(self, enabled: bool) -> None:
        """Choose the operators that give the same bits each time; those that cannot raise when called."""
        torch.use_deterministic_algorithms(enabled)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:  # Any: any signature
        """Compile with torch's C++ back end where a compiler is installed."""
        backends = self._capability.compile_backends
        return torch.compile(function, backend=backends[0]) if backends else function


@contextlib.contextmanager
def _autocast(dtype: Dtype) -> Generator[None, None, None]:
    with torch.autocast("cpu", dtype=dtype.torch()):
        yield
