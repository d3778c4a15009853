"""Kernel rows of the NPU. Targets are text: nothing heavy is imported until a row is picked.

Limits in the constraints are those of the documentation in torch_npu 2.13.0, for the Atlas A2 and A3 series.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from portable.kernel.entry import Constraint, KernelEntry

_16_BITS = ("bf16", "fp16")
_FUSED, _SIMPLE = 20, 10


def _at_most(operator: str, **limits: int) -> Constraint:
    """Return a constraint that refuses facts above the operator's limits."""

    def refuse(facts: Mapping[str, Any]) -> str:  # Any: see Op.facts
        for name, limit in limits.items():
            if facts[name] is not None and facts[name] > limit:
                return f"{name} {facts[name]} > {limit}, the limit of {operator}"
        return ""

    return refuse


_attention_sizes = _at_most("npu_fusion_attention", head_dim=768, num_heads=256)
_decode_sizes = _at_most("npu_fused_infer_attention_score", head_dim=512, num_heads=256)
_MAX_PAGE_SIZE, _PAGE_STEP, _MAX_PAGE_WIDTH, _MAX_GROUP = 512, 16, 65_535, 64


def _attention(facts: Mapping[str, Any]) -> str:  # Any: see Op.facts
    if facts["align"] == "start" and facts["window"] is not None:
        return "npu_fusion_attention counts a window from the last query and key, not with align 'start'"
    return _attention_sizes(facts)


def _attention_with_lse(facts: Mapping[str, Any]) -> str:  # Any: see Op.facts
    if facts["sink"]:
        return "whether the row statistics of npu_fusion_attention count a sink is not documented"
    return _attention(facts)


def _decode(facts: Mapping[str, Any]) -> str:  # Any: see Op.facts
    heads, kv_heads = facts["num_heads"], facts["num_kv_heads"]
    if facts["sink"]:
        return "npu_fused_infer_attention_score has no sink"
    if heads and kv_heads and heads > _MAX_GROUP * kv_heads:
        return (
            f"{heads} query heads for {kv_heads} key-value heads; npu_fused_infer_attention_score takes "
            f"{_MAX_GROUP} for each"
        )
    return _decode_sizes(facts)


def _paged(facts: Mapping[str, Any]) -> str:  # Any: see Op.facts
    size, kv_heads, head_dim = facts["page_size"], facts["num_kv_heads"], facts["head_dim"]
    if size is not None and (size % _PAGE_STEP or not 0 < size <= _MAX_PAGE_SIZE):
        return (
            f"page_size {size}; npu_fused_infer_attention_score takes multiples of {_PAGE_STEP} up to "
            f"{_MAX_PAGE_SIZE}"
        )
    if kv_heads and head_dim and kv_heads * head_dim > _MAX_PAGE_WIDTH:
        return f"{kv_heads} key-value heads of {head_dim} dims exceed {_MAX_PAGE_WIDTH} numbers a position"
    return _decode(facts)


def _vocabulary(facts: Mapping[str, Any]) -> str:  # Any: see Op.facts
    size = facts["vocab_size"]
    if size is not None and size < 128:
        return f"vocab_size {size} < 128, the least that the gradient of the fused head takes"
    return ""


def _sigmoid_gate(facts: Mapping[str, Any]) -> str:  # Any: see Op.facts
    experts = facts["num_experts"]
    if experts is not None and not 2 < experts <= 2048:
        return f"{experts} experts; npu_moe_gating_top_k takes 3 to 2048"
    return ""


def _row(op: str, name: str, place: str, **more: Any) -> KernelEntry:  # Any: fields of KernelEntry
    op, _, variant = op.partition(".")
    more = {"priority": _SIMPLE, "variant": variant or "standard", **more}
    return KernelEntry(op=op, name=name, backend="ascend", target=f"backends.ascend.fused.{place}", **more)


ENTRIES = (
    _row("rms_norm", "npu_rms_norm", "norm:rms_norm"),
    _row("rms_norm.add", "npu_add_rms_norm", "norm:add_rms_norm"),
    _row("rms_norm.one_plus_w", "npu_gemma_rms_norm", "norm:rms_norm_one_plus_w"),
    *(
        _row(
            f"rope.{mode}",
            "npu_rotary_mul",
            f"rope:rope_{mode}",
            constraint=_at_most("npu_rotary_mul", rotary_dim=894),
        )
        for mode in ("half", "interleave")
    ),
    _row("swiglu", "npu_swiglu", "activation:swiglu"),
    _row("geglu.erf", "npu_geglu", "activation:geglu_erf"),
    _row("geglu.tanh", "npu_geglu", "activation:geglu_tanh"),
    _row("attention", "npu_fusion", "attention:attention", constraint=_attention, priority=_FUSED),
    _row(
        "attention.with_lse",
        "npu_fusion",
        "attention:attention_with_lse",
        constraint=_attention_with_lse,
        priority=_FUSED,
    ),
    _row(
        "decode_attention",
        "npu_fused_infer_attention_score",
        "decode:decode_attention",
        dtypes=_16_BITS,
        constraint=_decode,
        priority=_FUSED,
        differentiable=False,
    ),
    _row(
        "paged_attention",
        "npu_fused_infer_attention_score",
        "decode:paged_attention",
        dtypes=_16_BITS,
        constraint=_paged,
        priority=_FUSED,
        differentiable=False,
    ),
    _row(
        "token_log_probs",
        "npu_fused_linear_online_max_sum",
        "log_prob:token_log_probs",
        dtypes=_16_BITS,
        constraint=_vocabulary,
        priority=_FUSED,
    ),
    _row("cross_entropy", "npu_cross_entropy_loss", "cross_entropy:cross_entropy"),
    _row("gather_log_probs", "npu_cross_entropy_loss", "cross_entropy:gather_log_probs"),
    _row("adamw", "npu_apply_adam_w", "adamw:adamw", differentiable=False),
    _row(
        "moe_gate.softmax",
        "npu_moe_gating_top_k_softmax_v2",
        "moe:moe_gate_softmax",
        constraint=_at_most("npu_moe_gating_top_k_softmax_v2", top_k=1024),
    ),
    _row("moe_gate.sigmoid", "npu_moe_gating_top_k", "moe:moe_gate_sigmoid", constraint=_sigmoid_gate),
    _row(
        "moe_permute",
        "npu_moe_token_permute",
        "moe:moe_permute",
        constraint=_at_most("npu_moe_token_permute", top_k=512),
    ),
    _row(
        "moe_unpermute",
        "npu_moe_token_unpermute",
        "moe:moe_unpermute",
        constraint=_at_most("npu_moe_token_unpermute", top_k=512),
    ),
    _row(
        "grouped_matmul",
        "npu_grouped_matmul",
        "moe:grouped_matmul",
        constraint=_at_most("npu_grouped_matmul", num_experts=1024),
        priority=_FUSED,
    ),
    _row(
        "int8_matmul",
        "npu_quant_matmul",
        "quant:int8_matmul",
        dtypes=_16_BITS,
        priority=_FUSED,
        differentiable=False,
    ),
)
