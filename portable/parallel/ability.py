"""What low precision and compilation ask of a device, told before anything is built."""

from __future__ import annotations

from portable.core.errors import ConfigError
from portable.device.capability import Capability, Role, Support
from portable.parallel.config import Float8Config, ParallelConfig

_FORMATS = ("fp8_e4m3", "fp8_e5m2")


def multiplies_float8(capability: Capability) -> bool:
    """Whether the device itself multiplies both 8-bit formats."""
    return all(capability.dtype(Role.matmul, name) is Support.native for name in _FORMATS)


def check_float8(config: Float8Config, capability: Capability, hardware: str) -> None:
    """Raises: ConfigError if the device lacks the formats and emulation was not asked for."""
    if config.recipe == "none" or config.emulate or multiplies_float8(capability):
        return
    raise ConfigError(
        f"precision.float8.recipe={config.recipe}: hardware={hardware} ({capability.arch}) does not multiply "
        f"{' and '.join(_FORMATS)} by itself, so it would only be slower; use precision=bf16, or "
        "precision.float8.emulate=true to see what the format does to the loss"
    )


def check_compilation(config: ParallelConfig, capability: Capability, hardware: str) -> None:
    """Raises: ConfigError if blocks cannot be compiled as ``config`` asks."""
    if not config.compile.enable:
        return
    if not capability.compile_backends:
        raise ConfigError(
            f"parallel.compile.enable=true, but hardware={hardware} ({capability.arch}) has no compiler; "
            "use parallel.compile.enable=false"
        )
    if config.recompute.mode == "budget":
        raise ConfigError(
            "parallel.recompute.mode=budget chooses among single operators, and parallel.compile.enable=true "
            "joins them into graphs; use recompute.mode=full or selective, or compile.enable=false"
        )
