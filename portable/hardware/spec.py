"""The shape of a ``conf/hardware`` file. No figure stands here; the YAML files carry them with their
sources."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING


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
class HardwareConfig:
    """One kind of hardware. ``peak_tflops`` is dense, by number format; memory in GiB; bandwidth in TB/s;
    links in GB/s."""

    name: str = MISSING
    title: str = ""
    backend: str = MISSING
    vendor: str = ""
    arch: str = ""
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
