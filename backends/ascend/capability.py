"""What Ascend NPUs can do, by arch (``ascend910b`` is the Atlas A2 series), as data; no driver is asked.

Sources, read in November 2026; none of it was tried on hardware here:
[aclnn]   CANN 8.3 operator interface, by series: aclnnInplaceCopy and aclnnCast (float64, integers, bool,
          complex numbers; bfloat16 from A2 on), aclnnMm (float16, float32, bfloat16 from A2 on; A2's
          predecessors and the 310P compute float32 in float16), aclnnReduceSum (as copies).
[hccl]    CANN 8.3, HcclAllReduce (A2, A3: int8, int32, int64, float16, float32, bfloat16; sum, product, max,
          min) and HcclAllGather (float64, too).
[process] torch_npu 2.13, ProcessGroupHCCL: an average is a sum and a division, a pre-scaled sum is a product
          and a sum, gather is an all-gather; booleans travel as bytes.
[schema]  torch_npu 2.13, ``npu_fusion_attention`` and its documentation: head_dim to 768, layouts, sinks,
          bands.
[ini]     CANN's platform files: ``ub_size`` of Ascend910A and Ascend910B2C. Grids of triton-ascend end at
          65535.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from portable.core.errors import CapabilityError
from portable.device.capability import (
    DTYPES,
    AttentionAbility,
    Capability,
    Feature,
    Role,
    Support,
    TileLimits,
)

_NATIVE, _EMULATED, _NONE = Support.native, Support.emulated, Support.none
_FP8 = ("fp8_e4m3", "fp8_e5m2")
_MAX_GRID = 65_535


@dataclass(frozen=True, slots=True)
class _Arch:
    since_a2: bool  # bfloat16, float32 in the cube, fused attention with gradients, graphs, memory handles
    unified_buffer_bytes: int | None = None


_ARCHS = {
    "ascend910": _Arch(since_a2=False, unified_buffer_bytes=262_144),
    "ascend910b": _Arch(since_a2=True, unified_buffer_bytes=196_608),
    # The dies of a 910C are said to be those of the 910B; no platform file of theirs was seen.
    "ascend910_93": _Arch(since_a2=True, unified_buffer_bytes=196_608),
    "ascend310p": _Arch(since_a2=False),
}
# How CANN's names of the chips begin; the first that fits counts.
_SOC_NAMES = {
    "Ascend910B": "ascend910b",
    "Ascend910_93": "ascend910_93",
    "Ascend910A": "ascend910",
    "Ascend910P": "ascend910",  # Pro, Premium
    "Ascend310P": "ascend310p",
}


def arch_of(soc_name: str) -> str:
    """Return the arch of CANN's name of a chip, such as ``Ascend910B2``.

    Raises: CapabilityError for a chip that nobody described here.
    """
    for start, arch in _SOC_NAMES.items():
        if soc_name.startswith(start):
            return arch
    raise CapabilityError(
        f"nothing is known here of the chip '{soc_name}'; known: {', '.join(_SOC_NAMES)}...; add it to "
        "backends/ascend/capability.py with its sources"
    )


def capability_of(arch: str) -> Capability:
    """Return what NPUs of ``arch`` can do. Raises: CapabilityError for one that nobody described here."""
    if arch not in _ARCHS:
        raise CapabilityError(
            f"nothing is known here of the arch '{arch}'; known: {', '.join(_ARCHS)}; add it to "
            "backends/ascend/capability.py with its sources"
        )
    known = _ARCHS[arch]
    size = known.unified_buffer_bytes
    return Capability(
        arch=arch,
        communicator="hccl",
        dtypes=_dtypes(known),
        reduce_ops={
            **dict.fromkeys(("sum", "max", "min", "product"), _NATIVE),
            **dict.fromkeys(("mean", "premul_sum"), _EMULATED),
        },
        collectives={
            **dict.fromkeys(
                (
                    "all_reduce",
                    "all_gather",
                    "reduce_scatter",
                    "all_to_all",
                    "broadcast",
                    "scatter",
                    "send_recv",
                ),
                _NATIVE,
            ),
            "gather": _EMULATED,
        },
        features=_features(known),
        # None of these chips has an 8-bit float. The Ascend 950 has; it is to be added with its sources.
        fp8=None,
        compile_backends=("inductor",) if known.since_a2 else (),
        attention=_attention(known),
        tiles=None if size is None else TileLimits(warp_size=1, on_chip_bytes=size, max_grid=_MAX_GRID),
    )


def _dtypes(known: _Arch) -> dict[Role, dict[str, Support]]:
    """[aclnn], [hccl]. 8-bit floats may lie in memory as bytes, but no operator of these chips reads them."""
    bf16 = _NATIVE if known.since_a2 else _NONE
    fp32 = _NATIVE if known.since_a2 else _EMULATED
    return {
        Role.storage: {
            **dict.fromkeys(DTYPES, _NATIVE),
            "bf16": bf16,
            **dict.fromkeys(_FP8, _EMULATED),
        },
        Role.matmul: {
            **dict.fromkeys(DTYPES, _NONE),
            "fp16": _NATIVE,
            "bf16": bf16,
            "fp32": fp32,
        },
        Role.reduce: {
            **dict.fromkeys(DTYPES, _NATIVE),
            "bf16": bf16,
            "fp64": _EMULATED,  # by the chip's few general cores
            **dict.fromkeys(_FP8, _NONE),
        },
        Role.collective: {
            **dict.fromkeys(DTYPES, _NATIVE),
            "bf16": bf16,
            **dict.fromkeys(("fp64", "complex64", *_FP8), _EMULATED),  # HCCL moves them
        },
    }


def _features(known: _Arch) -> tuple[Feature, ...]:
    base = (Feature.async_copy, Feature.pinned_memory, Feature.private_formats)
    if "PORTABLE_ASCEND_SOC" not in os.environ:  # the emulator sets it
        base = (*base, Feature.real_time)
    return (*base, Feature.graph_capture, Feature.ipc) if known.since_a2 else base


def _attention(known: _Arch) -> AttentionAbility:
    if not known.since_a2:
        return AttentionAbility()
    return AttentionAbility(
        gqa=_NATIVE,
        varlen=_NATIVE,
        sliding_window=_NATIVE,
        sink=_NATIVE,
        dropout=_NATIVE,
        max_head_dim=768,
    )
