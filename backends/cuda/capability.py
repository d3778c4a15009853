"""What NVIDIA GPUs can do, by arch (``sm_90`` is compute capability 9.0), as data; no driver is asked.

Sources, read in November 2026; none of it was tried on hardware here:
[guide]  CUDA C++ programming guide, tables of compute capabilities: warp size, grid, shared memory a block.
[torch]  torch 2.13: ``torch.cuda.is_bf16_supported`` (bf16 without hardware is emulated),
         ``torch._scaled_mm`` (8-bit floats from compute capability 8.9), fused attention (head_dim to 256).
[nccl]   NCCL 2.29, which torch 2.13 is built with: averages since 2.10, pre-scaled sums since 2.11, 8-bit
         floats from compute capability 9.0.
"""

from __future__ import annotations

from backends.torch_device.gpu import COLLECTIVES, FEATURES, REDUCE_OPS, gpu_dtypes
from portable.core.errors import CapabilityError
from portable.device.capability import AttentionAbility, Capability, Fp8Format, Support, TileLimits

_KIB = 1024
# [guide] What one block of threads may use of an SM's shared memory.
_SHARED_BYTES = {
    "sm_70": 96 * _KIB,
    "sm_75": 64 * _KIB,
    "sm_80": 163 * _KIB,
    "sm_86": 99 * _KIB,
    "sm_87": 163 * _KIB,
    "sm_89": 99 * _KIB,
    "sm_90": 227 * _KIB,
    "sm_100": 227 * _KIB,
    "sm_103": 227 * _KIB,
    "sm_120": 99 * _KIB,
    "sm_121": 99 * _KIB,
}
_OCP = Fp8Format(e4m3="float8_e4m3fn", e4m3_max=448.0, e5m2="float8_e5m2", e5m2_max=57344.0)


def arch_of(major: int, minor: int) -> str:
    """Return the arch's name of a compute capability."""
    return f"sm_{major}{minor}"


def capability_of(arch: str) -> Capability:
    """Return what GPUs of ``arch`` can do. Raises: CapabilityError for an arch that nobody described here."""
    if arch not in _SHARED_BYTES:
        raise CapabilityError(
            f"nothing is known here of the arch '{arch}'; known: {', '.join(_SHARED_BYTES)}; add it to "
            "backends/cuda/capability.py with its sources"
        )
    number = int(arch.removeprefix("sm_"))
    has_fp8 = number >= 89
    return Capability(
        arch=arch,
        communicator="nccl",
        dtypes=gpu_dtypes(
            bf16=Support.native if number >= 80 else Support.emulated,
            fp8=Support.native if has_fp8 else Support.none,
            fp8_collective=Support.native if number >= 90 else Support.emulated,
        ),
        reduce_ops=dict(REDUCE_OPS),
        collectives=dict(COLLECTIVES),
        features=FEATURES,
        fp8=_OCP if has_fp8 else None,
        compile_backends=("inductor",),
        attention=AttentionAbility(
            gqa=Support.native, varlen=Support.emulated, dropout=Support.native, max_head_dim=256
        ),
        tiles=TileLimits(warp_size=32, on_chip_bytes=_SHARED_BYTES[arch], max_grid=2**31 - 1),
    )
