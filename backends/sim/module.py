"""The module that torch asks about the simulated devices: ``torch.sim``, as ``torch.cuda`` is another's.

FSDP2, checkpointing, DTensor, data loaders and ``torch.accelerator`` find here what they look for by name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from portable.core.errors import BackendUnavailable

Index = int | str | torch.device | None


@dataclass(frozen=True, slots=True)
class DeviceProperties:
    """What ``get_device_properties`` tells. Memory in bytes."""

    name: str
    total_memory: int
    multi_processor_count: int


class SimModule(ModuleType):
    """The functions of ``torch.<type_name>``; an index of None is the current device."""

    Stream = torch.Stream
    Event = torch.Event
    _initialized = True  # recomputation keeps the random state of initialised devices only

    def __init__(
        self, type_name: str, native: Any, num_devices: int, num_cores: int
    ) -> None:  # Any: a C++ module
        super().__init__(f"torch.{type_name}", __doc__)
        self._type_name = type_name
        self._native = native
        self._num_devices = num_devices
        self._num_cores = num_cores
        self.default_generators = tuple(native.default_generator(index) for index in range(num_devices))

    def is_available(self) -> bool:
        """Return True: whoever has loaded the simulator can use it."""
        return True

    def is_initialized(self) -> bool:
        """Return True: there is no context to create."""
        return True

    def init(self) -> None:
        """Do nothing; see ``is_initialized``."""

    def _lazy_init(self) -> None:
        """Do nothing; torch calls this before the first use."""

    def _is_in_bad_fork(self) -> bool:
        """Return False: the devices are host memory, which survives a fork."""
        return False

    def device_count(self) -> int:
        """Return how many devices are simulated."""
        return self._num_devices

    def current_device(self) -> int:
        """Return the index of this thread's device."""
        return torch.accelerator.current_device_index()

    def set_device(self, device: Index) -> None:
        """Make ``device`` this thread's."""
        torch.accelerator.set_device_index(self._index(device))

    @contextlib.contextmanager
    def device(self, device: Index) -> Generator[None]:
        """Make ``device`` this thread's inside the block; a negative index changes nothing."""
        before = self.current_device()
        index = self._index(device)
        if index >= 0:
            self.set_device(index)
        try:
            yield
        finally:
            self.set_device(before)

    def get_device_name(self, device: Index = None) -> str:
        """Return the imitated chip's name."""
        self._index(device)
        return self._native.chip()

    def get_device_properties(self, device: Index = None) -> DeviceProperties:
        """Return name, memory and cores; the cores are the processor's."""
        total = self.mem_get_info(device)[1]
        return DeviceProperties(self.get_device_name(device), total, self._num_cores)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Return what autocast may cast to."""
        supported = torch.accelerator.get_device_capability()["supported_dtypes"]
        return [dtype for dtype in (torch.bfloat16, torch.float16) if dtype in supported]

    def is_bf16_supported(self) -> bool:
        """Return whether the imitated chip has bfloat16."""
        return torch.bfloat16 in self.get_amp_supported_dtype()

    def current_stream(self, device: Index = None) -> torch.Stream:
        """Return the stream that this thread queues work of ``device`` on."""
        return torch.accelerator.current_stream(self._index(device))

    def default_stream(self, device: Index = None) -> torch.Stream:
        """Return the stream that work is on if nobody chose another."""
        kind = torch._C._autograd.DeviceType.PrivateUse1.value
        return torch.Stream(stream_id=0, device_index=self._index(device), device_type=kind)

    def set_stream(self, stream: torch.Stream) -> None:
        """Queue this thread's work on ``stream``."""
        torch.accelerator.set_stream(stream)

    @contextlib.contextmanager
    def stream(self, stream: torch.Stream | None) -> Generator[None]:
        """Queue the block's work on ``stream``, on its device; None changes nothing."""
        if stream is None:
            yield
            return
        with stream:
            yield

    def synchronize(self, device: Index = None) -> None:
        """Let the host wait for all streams of ``device``."""
        torch.accelerator.synchronize(self._index(device))

    def empty_cache(self) -> None:
        """Give memory that is reserved but unused back."""
        torch.accelerator.empty_cache()

    def mem_get_info(self, device: Index = None) -> tuple[int, int]:
        """Return the free and the total bytes of ``device``."""
        return torch.accelerator.get_memory_info(self._index(device))

    def memory_stats(self, device: Index = None) -> dict[str, Any]:  # Any: torch types it so
        """Return all counters by name."""
        return torch.accelerator.memory_stats(self._index(device))

    def memory_allocated(self, device: Index = None) -> int:
        """Return the bytes that tensors take now."""
        return torch.accelerator.memory_allocated(self._index(device))

    def max_memory_allocated(self, device: Index = None) -> int:
        """Return the most bytes that tensors took since the last reset."""
        return torch.accelerator.max_memory_allocated(self._index(device))

    def memory_reserved(self, device: Index = None) -> int:
        """Return the bytes that the allocator holds."""
        return torch.accelerator.memory_reserved(self._index(device))

    def max_memory_reserved(self, device: Index = None) -> int:
        """Return the most bytes that the allocator held since the last reset."""
        return torch.accelerator.max_memory_reserved(self._index(device))

    def reset_peak_memory_stats(self, device: Index = None) -> None:
        """Start counting the peaks anew."""
        torch.accelerator.reset_peak_memory_stats(self._index(device))

    def reset_accumulated_memory_stats(self, device: Index = None) -> None:
        """Start counting the sums anew."""
        torch.accelerator.reset_accumulated_memory_stats(self._index(device))

    def manual_seed(self, seed: int) -> None:
        """Seed the current device's random stream."""
        self.default_generators[self.current_device()].manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        """Seed every device's random stream."""
        for generator in self.default_generators:
            generator.manual_seed(seed)

    def seed(self) -> int:
        """Seed the current device's random stream by chance, and return the seed."""
        return self.default_generators[self.current_device()].seed()

    def initial_seed(self) -> int:
        """Return the seed of the current device's random stream."""
        return self.default_generators[self.current_device()].initial_seed()

    def get_rng_state(self, device: Index = None) -> torch.Tensor:
        """Return seed and offset of the random stream of ``device``: 16 bytes on the CPU."""
        return self.default_generators[self._index(device)].get_state()

    def set_rng_state(self, new_state: torch.Tensor, device: Index = None) -> None:
        """Restore what ``get_rng_state`` returned."""
        self.default_generators[self._index(device)].set_state(new_state)

    def get_rng_state_all(self) -> list[torch.Tensor]:
        """Return the states of all devices."""
        return [generator.get_state() for generator in self.default_generators]

    def set_rng_state_all(self, new_states: Iterable[torch.Tensor]) -> None:
        """Restore what ``get_rng_state_all`` returned."""
        for index, state in enumerate(new_states):
            self.set_rng_state(state, index)

    def _index(self, device: Index) -> int:
        """Return the number of ``device``, which may name it as an index, a text or a torch device."""
        if isinstance(device, int):
            return device
        named = torch.device(device) if device is not None else torch.device(self._type_name)
        if named.type != self._type_name:
            raise BackendUnavailable(
                f"torch.{self._type_name} was asked about {named}, another kind of device"
            )
        return self.current_device() if named.index is None else named.index
