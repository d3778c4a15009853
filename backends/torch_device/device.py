"""A device that torch drives by a module such as ``torch.cuda``: written once, for every such module.

A third party's type (``torch.mlu``, ``torch.musa`` ...) needs no more than
``TorchDevice(name=..., vendor=..., torch_type=..., capability=...)``; who differs in a point overrides it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from typing import Any

import torch

from portable.core.errors import BackendUnavailable
from portable.device.capability import Capability, Feature
from portable.device.protocol import DeviceInfo, Dtype, Memory


class TorchDevice:
    """The devices of one torch type that this process sees; it works on one of them at a time."""

    def __init__(
        self,
        *,
        name: str,
        vendor: str,
        torch_type: str,
        capability: Capability,
        module: Any = None,  # Any: a module, by default torch's own for ``torch_type``
    ) -> None:
        self.name = name
        self.vendor = vendor
        self.torch_type = torch_type
        self.arch = capability.arch
        self.module = torch.get_device_module(torch_type) if module is None else module
        self._capability = capability

    def count(self) -> int:
        """Return how many devices this process can see."""
        return self.module.device_count()

    def torch_device(self, index: int = 0) -> torch.device:
        """Return the torch device of ``index``."""
        return torch.device(self.torch_type, index)

    def set_index(self, index: int) -> None:
        """Make ``index`` the current device of this thread. Raises: BackendUnavailable if it is not there."""
        count = self.count()
        if not 0 <= index < count:
            raise BackendUnavailable(
                f"this process should use the {self.torch_type} device {index}, but it sees {count}; start "
                f"at most {count} processes on this machine or let them see more devices; where each sees "
                "only its own, set LOCAL_RANK=0"
            )
        self.module.set_device(index)

    def info(self, index: int = 0) -> DeviceInfo:
        """Describe the device."""
        properties = self.module.get_device_properties(index)
        total = self.module.mem_get_info(index)[1]
        return DeviceInfo(properties.name, self.vendor, self.arch, self.num_cores(properties), total)

    def num_cores(self, properties: Any) -> int:  # Any: the module's own record
        """Return how many cores the module's record of properties tells of."""
        return properties.multi_processor_count

    def capability(self) -> Capability:
        """Return what this device can do."""
        return self._capability

    def supports(self, feature: Feature) -> bool:
        """Return whether the device has ``feature``."""
        return self._capability.supports(feature)

    def synchronize(self) -> None:
        """Let the host wait until all streams of the current device have done their work."""
        self.module.synchronize()

    def new_stream(self) -> Any:  # Any: torch's own Stream of the type, as are those below
        """Return a stream of its own on the current device."""
        return self.module.Stream()

    def current_stream(self) -> Any:
        """Return the stream that work is queued on now."""
        return self.module.current_stream()

    def use_stream(self, stream: Any) -> AbstractContextManager[None]:
        """Queue the block's work on ``stream``. It waits for nothing by itself."""
        return self.module.stream(stream)

    def new_event(self, *, timing: bool = False) -> Any:
        """Return a mark that is not set yet."""
        return self.module.Event(enable_timing=timing)

    def record_stream(self, tensor: torch.Tensor, stream: Any) -> None:
        """Tell the allocator that ``stream`` uses ``tensor``; there is nothing to tell of a host tensor."""
        if tensor.device.type == self.torch_type:
            tensor.record_stream(stream)

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy of the host tensor in pinned memory; itself where that is not offered or done."""
        if not self.supports(Feature.pinned_memory) or tensor.device.type != "cpu" or tensor.is_pinned():
            return tensor
        return tensor.contiguous().pin_memory()  # an expanded tensor has fewer bytes than values

    def to_portable(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return ``tensor``: these devices lay tensors out as torch does."""
        return tensor

    def empty_cache(self) -> None:
        """Give memory that the allocator holds unused back to the device."""
        self.module.empty_cache()

    def memory(self, index: int = 0) -> Memory:
        """Return figures in bytes. ``used`` is what this process's tensors take; ``free`` is what it could
        still take, from the device or from what its allocator holds unused."""
        free, total = self.module.mem_get_info(index)
        used = self.module.memory_allocated(index)
        unused = self.module.memory_reserved(index) - used
        return Memory(
            total_bytes=total,
            free_bytes=min(total, free + unused),
            used_bytes=used,
            peak_bytes=self.module.max_memory_allocated(index),
        )

    def reset_peak_memory(self) -> None:
        """Start counting the peak of the current device anew."""
        self.module.reset_peak_memory_stats()

    def seed(self, seed: int) -> None:
        """Seed the random stream of the current device. The host's streams are not a device's to seed."""
        self.module.manual_seed(seed)

    def rng_state(self) -> Any:  # Any: opaque by the Protocol
        """Return the state of the current device's random stream.

        Only of that one: a process computes on one device, and on resuming may see another number of them.
        """
        return self.module.get_rng_state(self._current_index())

    def set_rng_state(self, state: Any) -> None:  # Any: opaque by the Protocol
        """Restore it on the current device, whichever it is now."""
        self.module.set_rng_state(state, self._current_index())

    def generator(self, seed: int) -> torch.Generator:
        """Return a fresh random stream that lives on the current device."""
        return torch.Generator(device=self.torch_device(self._current_index())).manual_seed(seed)

    def autocast(self, dtype: Dtype) -> AbstractContextManager[None]:
        """Run the block's matmuls in ``dtype``; a no-op for fp32."""
        return contextlib.nullcontext() if dtype is Dtype.fp32 else self._autocast(dtype)

    def set_deterministic(self, enabled: bool) -> None:
        """Choose the operators that give the same bits each time; those that cannot raise when called."""
        torch.use_deterministic_algorithms(enabled)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:  # Any: any signature
        """Compile with the preferred compiler of the capability; ``function`` itself where there is none."""
        backends = self._capability.compile_backends
        return torch.compile(function, backend=backends[0]) if backends else function

    def _current_index(self) -> int:
        return self.module.current_device()

    @contextlib.contextmanager
    def _autocast(self, dtype: Dtype) -> Generator[None, None, None]:
        with torch.autocast(self.torch_type, dtype=dtype.torch()):
            yield
