"""Kernel rows of the CPU. Targets are text: nothing heavy is imported until a row is picked.

A row that is not faster than what it would replace has a negative priority: it can be named, and is not taken
by itself. ``tests/bench/cpu_kernels.py`` measures; the figures stand in README.md beside this file.
"""

import os
import shlex
import shutil
from collections.abc import Mapping
from typing import Any

from portable.kernel.entry import KernelEntry

_COMPILERS = ("g++", "c++", "clang++")
_FP32 = ("fp32",)


def needs_compiler(_: Mapping[str, Any]) -> str:  # Any: see Op.facts
    """Refuse rows in C++ on machines that cannot compile them."""
    asked = shlex.split(os.environ.get("CXX", ""))[:1]
    if any(map(shutil.which, asked or _COMPILERS)):
        return ""
    return f"it is compiled on first use, and there is no C++ compiler ({', '.join(asked or _COMPILERS)})"


def needs_onednn(_: Mapping[str, Any]) -> str:  # Any: see Op.facts
    """Refuse rows of oneDNN where torch was built without it."""
    import torch

    return "" if torch.backends.mkldnn.is_available() else "this torch was built without oneDNN"


def _torch(op: str, name: str, target: str, **settings: Any) -> KernelEntry:  # Any: fields of KernelEntry
    return KernelEntry(op=op, name=name, backend="cpu", target=f"backends.cpu.kernel.{target}", **settings)


def _native(op: str, target: str, **settings: Any) -> KernelEntry:  # Any: fields of KernelEntry
    settings = {"priority": 10, "constraint": needs_compiler, **settings}
    return _torch(op, "native", target, **settings)


ENTRIES = (
    _torch("attention", "sdpa", "attention:attention"),
    _torch("attention", "sdpa", "attention:attention_with_lse", variant="with_lse"),
    _torch("decode_attention", "sdpa", "attention:decode_attention", differentiable=False),
    _torch("linear", "onednn", "linear:linear", priority=10, dtypes=_FP32, constraint=needs_onednn),
    # 16-bit probabilities are too coarse to keep.
    _torch("token_log_probs", "kept", "log_prob:token_log_probs", dtypes=_FP32),
    _native("token_log_probs", "cross_entropy:token_log_probs", dtypes=_FP32),
    _native("gather_log_probs", "cross_entropy:gather_log_probs"),
    _native("cross_entropy", "cross_entropy:cross_entropy"),
    _native("rms_norm", "norm:rms_norm"),
    _native("rms_norm", "norm:rms_norm_one_plus_w", variant="one_plus_w"),
    _native("rms_norm", "norm:add_rms_norm", variant="add"),
    _native("rope", "rope:rope_half", variant="half"),
    _native("rope", "rope:rope_interleave", variant="interleave"),
    _native("swiglu", "activation:swiglu"),
    _native("decode_attention", "decode:decode_attention", differentiable=False),
    _native("paged_attention", "decode:paged_attention", differentiable=False),
    _native("packed_matmul", "packed:packed_matmul"),
    _native("top_k_top_p", "sampling:top_k_top_p"),
    _torch("int8_matmul", "int_mm", "int8:int8_matmul", priority=10, differentiable=False),
    _torch("adamw", "torch_fused", "adamw:adamw", priority=10, differentiable=False),
)
