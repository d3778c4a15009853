"""Kernel rows in Triton, the same for every maker of GPUs. Targets are text: nothing is imported for them."""

from collections.abc import Mapping
from typing import Any

from portable.kernel.entry import KernelEntry

MAX_WIDTH = 32768  # of a row that one program holds; at twice that sm_90 spills most of it
MAX_HEAD_DIM = 256

_PLACE = "backends.triton"


def row_fits(facts: Mapping[str, Any]) -> str:  # Any: see Op.facts
    """Refuse rows that one program cannot hold."""
    size = facts["size"]
    return f"size {size} > {MAX_WIDTH}" if size is not None and size > MAX_WIDTH else ""


def head_fits(facts: Mapping[str, Any]) -> str:  # Any: see Op.facts
    """Refuse heads whose tiles do not fit on the chip."""
    head_dim = facts["head_dim"]
    return f"head_dim {head_dim} > {MAX_HEAD_DIM}" if head_dim is not None and head_dim > MAX_HEAD_DIM else ""


# Gradients of the sink and of shared keys are sums over all tokens, taken tile by tile: another order than
# the reference's, with another rounding.
_ATTENTION: dict[str, Any] = {"constraint": head_fits, "tolerance": 8.0}  # Any: fields of an entry
_NO_GRADIENT: dict[str, Any] = {"differentiable": False}

_ROWS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("rms_norm", "norm:rms_norm", {"constraint": row_fits}),
    ("rms_norm.one_plus_w", "norm:rms_norm_one_plus_w", {"constraint": row_fits}),
    ("rms_norm.add", "norm:add_rms_norm", {"constraint": row_fits}),
    ("layer_norm", "layer_norm:layer_norm", {"constraint": row_fits}),
    ("rope.half", "rope:rope_half", {}),
    ("rope.interleave", "rope:rope_interleave", {}),
    ("swiglu", "activation:swiglu", {}),
    ("geglu.erf", "activation:geglu_erf", {}),
    ("geglu.tanh", "activation:geglu_tanh", {}),
    ("cross_entropy", "cross_entropy:cross_entropy", {}),
    ("cross_entropy.vocab_parallel", "cross_entropy:vocab_parallel_cross_entropy", {}),
    ("gather_log_probs", "cross_entropy:gather_log_probs", {}),
    ("token_log_probs", "log_prob:token_log_probs", {}),
    ("attention", "attention:attention", _ATTENTION),
    ("attention.with_lse", "attention:attention_with_lse", _ATTENTION),
    ("decode_attention", "decode:decode_attention", {"constraint": head_fits, **_NO_GRADIENT}),
    ("paged_attention", "decode:paged_attention", {"constraint": head_fits, **_NO_GRADIENT}),
    ("adamw", "adamw:adamw", _NO_GRADIENT),
    ("grouped_matmul", "grouped_matmul:grouped_matmul", {}),
    ("packed_matmul", "quant:packed_matmul", {}),
    ("int8_matmul", "quant:int8_matmul", _NO_GRADIENT),
    ("nf4_dequantize", "quant:nf4_dequantize", {}),
)


def entries(backend: str) -> tuple[KernelEntry, ...]:
    """Return the rows for ``backend``, "cuda" or "rocm"."""
    return tuple(_entry(backend, op, target, fields) for op, target, fields in _ROWS)


def _entry(backend: str, op: str, target: str, fields: dict[str, Any]) -> KernelEntry:
    name, _, variant = op.partition(".")
    return KernelEntry(
        op=name,
        variant=variant or "standard",
        name="triton",
        backend=backend,
        target=f"{_PLACE}.{target}",
        **{"priority": 20, "requires": ("triton",), **fields},
    )
