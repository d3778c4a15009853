"""One family of accelerators, as the rest of the code sees it.

Every method is total on every backend: a device without streams or statistics answers with something that
works, so shared code never asks who a device is, only what it can do.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from portable.device.capability import Capability, Feature

if TYPE_CHECKING:
    import torch

    from portable.device.stream import Event, Stream


class Dtype(Enum):
    """Number formats that a config may name."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"

    def torch(self) -> torch.dtype:
        """Return the torch dtype."""
        import torch

        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.value]


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. ``peak`` counts from the last ``reset_peak_memory``; None where nobody keeps the figure."""

    total_bytes: int
    free_bytes: int
    used_bytes: int
    peak_bytes: int | None


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """How a device introduces itself: to people, and in the records of a run."""

    name: str
    vendor: str
    arch: str
    num_cores: int
    total_bytes: int


class Device(Protocol):
    """One family of devices on this machine."""

    @property
    def name(self) -> str:
        """The registered name of the backend."""
        ...

    @property
    def vendor(self) -> str:
        """Who makes it."""
        ...

    @property
    def torch_type(self) -> str:
        """What ``torch.device()`` takes; two backends may share it."""
        ...

    @property
    def arch(self) -> str:
        """The instruction set or chip generation that kernels and formats depend on."""
        ...

    def count(self) -> int:
        """Return how many devices this process can see."""
        ...

    def torch_device(self, index: int = 0) -> torch.device:
        """Return the torch device of ``index``."""
        ...

    def set_index(self, index: int) -> None:
        """Make ``index`` this process's current device."""
        ...

    def info(self, index: int = 0) -> DeviceInfo:
        """Describe the device."""
        ...

    def capability(self) -> Capability:
        """Return what this device can do."""
        ...

    def supports(self, feature: Feature) -> bool:
        """Return whether the device has ``feature``."""
        ...

    def synchronize(self) -> None:
        """Let the host wait until all streams have done their work."""
        ...

    def new_stream(self) -> Stream:
        """Return a stream of its own on the current device."""
        ...

    def current_stream(self) -> Stream:
        """Return the stream that work is queued on now."""
        ...

    def use_stream(self, stream: Stream) -> AbstractContextManager[None]:
        """Queue the block's work on ``stream``. It waits for nothing by itself."""
        ...

    def new_event(self, *, timing: bool = False) -> Event:
        """Return a mark that is not set yet."""
        ...

    def record_stream(self, tensor: torch.Tensor, stream: Stream) -> None:
        """Tell the allocator that ``stream`` uses ``tensor``, whose memory must outlive that work."""
        ...

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a host tensor that the device can copy from without the host waiting.

        It is ``tensor`` itself where the device has no such memory.
        """
        ...

    def to_portable(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return ``tensor`` in torch's plain memory layout, as others can read it; itself if it has it."""
        ...

    def empty_cache(self) -> None:
        """Give memory that the allocator holds unused back to the device."""
        ...

    def memory(self, index: int = 0) -> Memory:
        """Return the present memory figures."""
        ...

    def reset_peak_memory(self) -> None:
        """Start counting the peak anew."""
        ...

    def seed(self, seed: int) -> None:
        """Seed the device's random streams."""
        ...

    def rng_state(self) -> Any:  # Any: opaque, picklable, only given back to set_rng_state
        """Return the state of the device's random streams."""
        ...

    def set_rng_state(self, state: Any) -> None:
        """Restore what ``rng_state`` returned."""
        ...

    def generator(self, seed: int) -> torch.Generator:
        """Return a fresh random stream that lives on the device."""
        ...

    def autocast(self, dtype: Dtype) -> AbstractContextManager[None]:
        """Run the block's matmuls in ``dtype``; a no-op for fp32."""
        ...

    def set_deterministic(self, enabled: bool) -> None:
        """Make every operator give the same bits each time, or raise if it cannot."""
        ...

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compile with this device's compiler; returns ``function`` itself where there is none."""
        ...
