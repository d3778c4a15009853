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

if TYPE_CHECKING:
    import torch

    from portable.collective.protocol import Group


class Dtype(Enum):
    """Number formats that a config may name."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"

    def torch(self) -> torch.dtype:
        """Return the torch dtype."""
        import torch

        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.value]


class Support(Enum):
    """How a capability is met."""

    native = "native"
    emulated = "emulated"
    none = "none"


class Feature(Enum):
    """Abilities that shared code may ask about."""

    async_copy = "async_copy"  # copies overlap with compute
    pinned_memory = "pinned_memory"
    graph_capture = "graph_capture"
    float64 = "float64"
    compile = "compile"


@dataclass(frozen=True, slots=True)
class Capability:
    """What a device can do. Plain values only, so that it can be printed, stored and compared."""

    matmul_dtypes: dict[str, Support]
    features: tuple[Feature, ...]
    reduce_ops: tuple[str, ...]
    communicator: str
    strategies: dict[str, str]  # usable strategy -> "" or the reason why it is not usable
    engines: dict[str, str]

    def supports(self, feature: Feature) -> bool:
        """Return whether the device has ``feature``."""
        return feature in self.features


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
        """Wait until all queued work is done."""
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

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compile with this device's compiler; returns ``function`` itself where there is none."""
        ...


class Backend(Protocol):
    """What the entry-point group ``portable.backends`` names: one per kind of hardware."""

    @property
    def name(self) -> str:
        """The registered name, equal to the entry point's."""
        ...

    @property
    def priority(self) -> int:
        """``auto`` takes the usable backend with the highest priority."""
        ...

    def probe(self) -> Probe:
        """Look for usable hardware, cheaply and without importing torch."""
        ...

    def environment(self) -> dict[str, str]:
        """Return variables that must stand before torch is imported; the user's own values win."""
        ...

    def device(self) -> Device:
        """Return the device family. Raises: BackendUnavailable."""
        ...

    def group(self, timeout_s: float) -> Group:
        """Join this process to its peers, as the launcher's environment says. Raises: BackendUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class Probe:
    """What a backend found. ``hardware`` is the name of the best matching ``conf/hardware`` file."""

    usable: bool
    hardware: str
    looked_for: str
    found: str
    remedy: str = ""
