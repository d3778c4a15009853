"""What a device can do: a record of plain values that can be printed, stored, compared and imitated.

A simulated accelerator takes its limits from such a record, the collective layer its emulations, the planner
its choices. Nothing in it needs the device: a vendor's package can state it for a chip that is not here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import Enum
from importlib.util import find_spec
from typing import Any, Self


class Support(Enum):
    """How an ability is met: by the device, by other means and slower, or not at all."""

    native = "native"
    emulated = "emulated"
    none = "none"


class Role(Enum):
    """What a number format is used for; a chip may store what it cannot multiply."""

    storage = "storage"
    matmul = "matmul"
    reduce = "reduce"  # sums over a dim: softmax, norms
    collective = "collective"


class Feature(Enum):
    """Abilities that are there or not."""

    async_copy = "async_copy"  # copies overlap with compute
    pinned_memory = "pinned_memory"
    graph_capture = "graph_capture"
    ipc = "ipc"  # processes share device memory by handle
    private_formats = "private_formats"  # tensors may lie in a layout that only this device reads
    real_time = "real_time"  # what a kernel takes here it takes at work: nothing is simulated


# Names of number formats in a record, with torch's. Configs choose among few of them: see Dtype.
DTYPES = {
    "fp64": "float64",
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp8_e4m3": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
    "int64": "int64",
    "int32": "int32",
    "int8": "int8",
    "bool": "bool",
    "complex64": "complex64",
}


@dataclass(frozen=True, slots=True)
class Fp8Format:
    """The 8-bit floating-point formats of an arch: torch's dtype names and their largest values."""

    e4m3: str
    e4m3_max: float
    e5m2: str
    e5m2_max: float


@dataclass(frozen=True, slots=True)
class TileLimits:
    """What a kernel written in tiles must stay within."""

    warp_size: int  # threads that run in step
    on_chip_bytes: int  # fast memory of one program
    max_grid: int  # programs of one launch, first dim


@dataclass(frozen=True, slots=True)
class AttentionAbility:
    """What the device's fused attention covers; what it lacks, the reference kernel computes."""

    gqa: Support = Support.none  # fewer key-value heads than query heads
    varlen: Support = Support.none  # packed rows by cumulative lengths
    sliding_window: Support = Support.none
    sink: Support = Support.none
    dropout: Support = Support.none
    max_head_dim: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """What a device can do.

    ``dtypes`` tells by role and by the names of ``DTYPES``; ``reduce_ops`` and ``collectives`` by the names
    of ``portable.collective``. What a table does not list is not there. ``strategies`` and ``engines`` hold
    "" for what is usable, else the reason why it is not.
    """

    arch: str
    communicator: str
    dtypes: dict[Role, dict[str, Support]]
    reduce_ops: dict[str, Support]
    collectives: dict[str, Support]
    features: tuple[Feature, ...] = ()
    fp8: Fp8Format | None = None
    compile_backends: tuple[str, ...] = ()  # names for torch.compile, the preferred one first
    attention: AttentionAbility = field(default_factory=AttentionAbility)
    tiles: TileLimits | None = None
    strategies: dict[str, str] = field(default_factory=dict)
    engines: dict[str, str] = field(default_factory=dict)

    def supports(self, feature: Feature) -> bool:
        """Return whether the device has ``feature``."""
        return feature in self.features

    def dtype(self, role: Role, name: str) -> Support:
        """Return how the number format ``name`` is met in ``role``."""
        return self.dtypes.get(role, {}).get(name, Support.none)

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """Return plain JSON values."""
        return _plain(asdict(self))

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:  # Any: JSON values
        """Read what ``to_json`` wrote."""
        values = dict(record)
        values["dtypes"] = {Role(role): _supports(table) for role, table in record["dtypes"].items()}
        values["reduce_ops"] = _supports(record["reduce_ops"])
        values["collectives"] = _supports(record["collectives"])
        values["features"] = tuple(map(Feature, record["features"]))
        values["fp8"] = Fp8Format(**record["fp8"]) if record["fp8"] else None
        values["compile_backends"] = tuple(record["compile_backends"])
        attention = record["attention"]
        values["attention"] = AttentionAbility(
            **_supports({name: word for name, word in attention.items() if name != "max_head_dim"}),
            max_head_dim=attention["max_head_dim"],
        )
        values["tiles"] = TileLimits(**record["tiles"]) if record["tiles"] else None
        return cls(**values)

    def __str__(self) -> str:
        """Return one ability a line."""
        lines = [f"arch {self.arch}, communicator {self.communicator}"]
        lines += [f"{role.name}: {_line(table)}" for role, table in self.dtypes.items()]
        lines += [f"reductions: {_line(self.reduce_ops)}", f"collectives: {_line(self.collectives)}"]
        lines.append("features: " + (", ".join(feature.name for feature in self.features) or "none"))
        if self.fp8 is not None:
            lines.append(
                f"fp8: {self.fp8.e4m3} to {self.fp8.e4m3_max:g}, {self.fp8.e5m2} to {self.fp8.e5m2_max:g}"
            )
        lines.append("compile: " + (", ".join(self.compile_backends) or "none"))
        abilities = {name: value for name, value in asdict(self.attention).items() if name != "max_head_dim"}
        lines.append(f"attention: {_line(abilities)}; head_dim to {self.attention.max_head_dim}")
        if self.tiles is not None:
            lines.append(
                f"tiles: {self.tiles.warp_size} threads in step, {self.tiles.on_chip_bytes} bytes on chip, "
                f"{self.tiles.max_grid} programs"
            )
        for kind, table in (("strategy", self.strategies), ("engine", self.engines)):
            lines += [f"{kind} {name}: {reason or 'usable'}" for name, reason in table.items()]
        return "\n".join(lines)


def strategy_reasons(no_peers: str) -> dict[str, str]:
    """Return the strategies built in, "" for usable; ``no_peers`` says why processes cannot talk, if so."""
    native = ("ddp", "zero1", "zero2", "zero3", "fsdp", "hsdp")
    engines = {
        name: no_peers or ("" if find_spec(name) else f"the package {name} is not installed")
        for name in ("deepspeed", "accelerate")
    }
    return {"single": "", **dict.fromkeys(native, no_peers), **engines}


def _line(table: dict[str, Support]) -> str:
    by_support = {support: [name for name, found in table.items() if found is support] for support in Support}
    return "; ".join(f"{support.name} {', '.join(names)}" for support, names in by_support.items() if names)


def _supports(table: dict[str, str]) -> dict[str, Support]:
    return {name: Support(word) for name, word in table.items()}


def _plain(value: Any) -> Any:  # Any: what a record holds, and JSON values
    if isinstance(value, dict):
        return {key.value if isinstance(key, Enum) else key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, Enum) else value
