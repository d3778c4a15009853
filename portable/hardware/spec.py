"""The shape of a ``conf/hardware`` file. No figure stands here; the YAML files carry them with their
sources."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from portable.core.errors import ConfigError


class FigureKind(Enum):
    """How far a figure can be trusted."""

    vendor = "vendor"
    third_party = "third_party"
    measured = "measured"
    disputed = "disputed"


@dataclass(kw_only=True, slots=True)
class Figure:
    """A number with its origin. ``low`` and ``high`` bound a disputed one; the unit is in the field that
    holds it."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    kind: FigureKind = FigureKind.vendor
    source: str = ""
    date: str = ""


@dataclass(kw_only=True, slots=True)
class ProbeSpec:
    """What to look for on a machine that should have this hardware, and what to install."""

    device_nodes: list[str] = field(default_factory=list)
    libraries: list[str] = field(default_factory=list)
    packages: list[str] = field(default_factory=list)
    install: str = ""


@dataclass(kw_only=True, slots=True)
class SimConfig:
    """What the simulated accelerator is like; read by the files of hardware that is simulated.

    ``like`` names the hardware file whose number formats, reductions and collectives it takes on; ""
    lets it do all that this machine can. ``memory_gib`` is the budget of each device: beyond it, allocations
    fail.
    """

    like: str = ""
    memory_gib: float = 4.0
    num_devices: int = 4

    def __post_init__(self) -> None:
        if self.memory_gib <= 0:
            raise ConfigError(f"sim.memory_gib={self.memory_gib:g}; use a positive number of GiB")
        if self.num_devices < 1:
            raise ConfigError(f"sim.num_devices={self.num_devices}; use 1 or more")


@dataclass(kw_only=True, slots=True)
class HardwareConfig:
    """One kind of hardware. ``peak_tflops`` is dense, by number format; memory in GiB; bandwidth in TB/s;
    links in GB/s. ``like`` is for hardware that imitates another: the name of that one's file.
    ``resource`` is what schedulers call one device of it, in lower case; "" where they count none."""

    name: str = MISSING
    title: str = ""
    backend: str = MISSING
    vendor: str = ""
    arch: str = ""
    like: str = ""
    resource: str = ""
    devices_per_node: int = 1
    memory_gib: Figure = field(default_factory=Figure)
    memory_bandwidth_tb_s: Figure = field(default_factory=Figure)
    link_gb_s: Figure = field(default_factory=Figure)
    peak_tflops: dict[str, Figure] = field(default_factory=dict)
    probe: ProbeSpec = field(default_factory=ProbeSpec)

    def peak_flops(self, dtype: str) -> float | None:
        """Return the dense peak in FLOP/s, or None where it is unknown or disputed: then there is no MFU to
        report."""
        figure = self.peak_tflops.get(dtype)
        if figure is None or figure.value is None or figure.kind is FigureKind.disputed:
            return None
        return figure.value * 1e12
