"""The chips that can be emulated, by what a program can notice of them."""

from __future__ import annotations

from dataclasses import dataclass

from backends.ascend.capability import arch_of, capability_of
from portable.core.errors import ConfigError, did_you_mean
from portable.device.capability import DTYPES, Role, Support

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Chip:
    """One chip, or one die where a package holds two and torch sees two devices."""

    name: str
    soc_name: str  # what the runtime answers; torch_npu derives its SocVersion from it
    num_cube_cores: int
    num_vector_cores: int
    memory_bytes: int
    has_bf16: bool  # torch_npu: Ascend910B1 and later


# Core counts and memory are third-party figures (device tables of virtualisation plug-ins, to be confirmed);
# nothing is computed from them, they are what device properties show.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("910b1", "Ascend910B1", 24, 48, 64 * GIB, True),
        Chip("910b2", "Ascend910B2", 24, 48, 64 * GIB, True),
        Chip("910b3", "Ascend910B3", 20, 40, 64 * GIB, True),
        Chip("910b4", "Ascend910B4", 20, 40, 32 * GIB, True),
        Chip("910c", "Ascend910_9392", 24, 48, 64 * GIB, True),
        Chip("310p", "Ascend310P3", 8, 7, 24 * GIB, False),
    )
}
ALIASES = {"910b": "910b2", "910_93": "910c", "310p3": "310p"}


@dataclass(frozen=True, slots=True)
class Denial:
    """A number format that an operator of the chip does not take."""

    op: str  # with its namespace, without overload; "*" for every operator
    dtype: str
    reason: str


_CUBE_OPS = (
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "addbmm",
    "mv",
    "addmv",
    "matmul",
    "convolution",
    "linalg_vector_dot",
    "_scaled_mm",
    "_scaled_mm_v2",
)
_CUBE = "the cube unit, and so CANN's Matmul and Convolution, take float16, float32 and bfloat16"


def denials(chip: Chip) -> list[Denial]:
    """Return what ``chip`` refuses and the CPU would compute."""
    known = capability_of(arch_of(chip.soc_name))
    lacking = [word for name, word in DTYPES.items() if known.dtype(Role.matmul, name) is Support.none]
    rows = [Denial(f"aten::{op}", dtype, _CUBE) for op in _CUBE_OPS for dtype in (*lacking, "complex128")]
    if not chip.has_bf16:
        rows.append(Denial("*", "bfloat16", f"{chip.soc_name} has no bfloat16"))
    return rows


def find_chip(name: str) -> Chip:
    """Look a chip up by its short name or by the runtime's name."""
    word = name.lower().removeprefix("ascend")
    word = ALIASES.get(word, word)
    for chip in CHIPS.values():
        if word in (chip.name, chip.soc_name.lower().removeprefix("ascend")):
            return chip
    raise ConfigError(
        f"--soc {name} is not a chip that can be emulated.{did_you_mean(word, CHIPS)} "
        f"Known: {', '.join([*CHIPS, *ALIASES])}"
    )
