"""What torch can do on this processor; ``tests/backends/cpu/test_capability.py`` tries every line of it."""

from __future__ import annotations

import os
import shutil

import torch

from backends.cpu.processor import COMMUNICATOR
from portable.device.capability import (
    DTYPES,
    AttentionAbility,
    Capability,
    Feature,
    Role,
    Support,
    strategy_reasons,
)

_NATIVE, _EMULATED, _NONE = Support.native, Support.emulated, Support.none
_ACCELERATORS_ONLY = "{name} runs on accelerators only here; use engine=native or engine=hf on a CPU"


def cpu_capability(arch: str) -> Capability:
    """Return what torch can do here. ``arch`` is the instruction set that it uses."""
    can_distribute = torch.distributed.is_available()
    no_peers = "" if can_distribute else "this build of torch has no torch.distributed; install another"
    return Capability(
        arch=arch,
        communicator=COMMUNICATOR,
        dtypes={
            Role.storage: dict.fromkeys(DTYPES, _NATIVE),
            Role.matmul: _matmul(),
            # Sums of 8-bit floats are not written for the CPU.
            Role.reduce: {**dict.fromkeys(DTYPES, _NATIVE), "fp8_e4m3": _NONE, "fp8_e5m2": _NONE},
            # The transport knows no 8-bit floats; their bytes can be moved.
            Role.collective: {**dict.fromkeys(DTYPES, _NATIVE), "fp8_e4m3": _EMULATED, "fp8_e5m2": _EMULATED},
        },
        features=(Feature.real_time,),
        reduce_ops={
            **dict.fromkeys(("sum", "mean", "max", "min", "product"), _NATIVE),
            "premul_sum": _EMULATED,
        },
        collectives=dict.fromkeys(
            (
                "all_reduce",
                "reduce_scatter",
                "all_gather",
                "all_to_all",
                "broadcast",
                "gather",
                "scatter",
                "send_recv",
            ),
            _NATIVE,
        ),
        compile_backends=("inductor",) if has_compiler() else (),
        attention=_attention(),
        strategies=strategy_reasons(no_peers),
        engines={
            "native": "",
            "hf": "",
            "vllm": _ACCELERATORS_ONLY.format(name="vLLM"),
            "lmdeploy": _ACCELERATORS_ONLY.format(name="LMDeploy"),
        },
    )


def has_compiler() -> bool:
    """Return whether torch's compiler finds a C++ compiler to call."""
    names = (os.environ.get("CXX", ""), "g++", "clang++")
    return any(shutil.which(name) for name in names if name)


def _matmul() -> dict[str, Support]:
    """16-bit formats are native where the instruction set multiplies them, and right but slow elsewhere."""
    has = torch.cpu.get_capabilities()

    def by_instructions(*names: str) -> Support:
        return _NATIVE if any(has.get(name) for name in names) else _EMULATED

    return {
        **dict.fromkeys(DTYPES, _NATIVE),
        "bf16": by_instructions("avx512_bf16", "amx_bf16", "bf16"),
        "fp16": by_instructions("avx512_fp16", "amx_fp16", "fp16"),
        "fp8_e4m3": _EMULATED,
        "fp8_e5m2": _EMULATED,
        "bool": _NONE,
    }


def _attention() -> AttentionAbility:
    """Tell what the row ``sdpa`` of ``backends.cpu.kernels`` covers. Larger head_dims were not tried."""
    return AttentionAbility(gqa=_NATIVE, varlen=_EMULATED, max_head_dim=1024)
