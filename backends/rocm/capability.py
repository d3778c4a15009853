"""What AMD GPUs can do, by arch (``gfx942`` is the MI300 series), as data; no driver is asked.

Sources, read in November 2026; none of it was tried on hardware here:
[specs]  ROCm, "GPU hardware specifications": wave size and LDS of each arch.
[hip]    HIP, "Low precision floating point types": the formats of gfx942 (fnuz, largest 240) and of gfx950
         and gfx12 (OCP, largest 448).
[torch]  torch 2.13: ``torch._scaled_mm`` on ROCm; fused attention (head_dim up to 256).
"""

from __future__ import annotations

from dataclasses import dataclass

from backends.torch_device.gpu import COLLECTIVES, FEATURES, REDUCE_OPS, gpu_dtypes
from portable.core.errors import CapabilityError
from portable.device.capability import AttentionAbility, Capability, Fp8Format, Support, TileLimits

_KIB = 1024
_OCP = Fp8Format(e4m3="float8_e4m3fn", e4m3_max=448.0, e5m2="float8_e5m2", e5m2_max=57344.0)
# No infinities, no negative zero, and another exponent bias: the same bits mean other numbers than in OCP.
_FNUZ = Fp8Format(e4m3="float8_e4m3fnuz", e4m3_max=240.0, e5m2="float8_e5m2fnuz", e5m2_max=57344.0)


@dataclass(frozen=True, slots=True)
class _Arch:
    wave_size: int
    lds_kib: int = 64
    bf16: Support = Support.native
    fp8: Fp8Format | None = None


_ARCHS = {
    "gfx906": _Arch(64, bf16=Support.emulated),
    "gfx908": _Arch(64),
    "gfx90a": _Arch(64),
    "gfx942": _Arch(64, fp8=_FNUZ),
    "gfx950": _Arch(64, lds_kib=160, fp8=_OCP),
    "gfx1030": _Arch(32, bf16=Support.emulated),
    "gfx1100": _Arch(32),
    "gfx1101": _Arch(32),
    "gfx1200": _Arch(32, fp8=_OCP),
    "gfx1201": _Arch(32, fp8=_OCP),
}


def arch_of(target_version: int) -> str:
    """Return the arch's name of the kernel driver's number: 90402 is 9.4.2, which is gfx942."""
    major, rest = divmod(target_version, 10_000)
    minor, stepping = divmod(rest, 100)
    return f"gfx{major}{minor:x}{stepping:x}"


def capability_of(arch: str) -> Capability:
    """Return what GPUs of ``arch`` can do; flags behind a colon (``gfx942:xnack-``) are left aside.

    Raises: CapabilityError for an arch that nobody described here.
    """
    name = arch.partition(":")[0]
    if name not in _ARCHS:
        raise CapabilityError(
            f"nothing is known here of the arch '{name}'; known: {', '.join(_ARCHS)}; add it to "
            "backends/rocm/capability.py with its sources"
        )
    known = _ARCHS[name]
    return Capability(
        arch=name,
        communicator="rccl",
        dtypes=gpu_dtypes(
            bf16=known.bf16,
            fp8=Support.native if known.fp8 else Support.none,
            # torch hands fnuz formats to the library as bytes and refuses to reduce them; nothing sure is
            # written of RCCL's sums of OCP formats.
            fp8_collective=Support.emulated,
        ),
        reduce_ops=dict(REDUCE_OPS),
        collectives=dict(COLLECTIVES),
        features=FEATURES,
        fp8=known.fp8,
        compile_backends=("inductor",),
        attention=AttentionAbility(
            gqa=Support.native, varlen=Support.emulated, dropout=Support.native, max_head_dim=256
        ),
        tiles=TileLimits(warp_size=known.wave_size, on_chip_bytes=known.lds_kib * _KIB, max_grid=2**31 - 1),
    )
