"""The ops: what a kernel may be asked to compute, and where its meaning is written.

An op has variants where the mathematics differ: ``rms_norm`` scales by w, its variant ``one_plus_w`` by 1 +
w. Rows that compute the same thing by other means are not variants.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from portable.core.errors import CapabilityError, did_you_mean

STANDARD = "standard"
_REFERENCE = "portable.kernel.reference"


@dataclass(frozen=True, slots=True)
class Op:
    """One variant of an op; its signature, formula and source are those of ``target``.

    ``facts`` are what a caller knows when it picks a kernel, e.g. the head_dim, and what rows may object to.
    A fact that the caller leaves out has the default given here; None stands for unknown, and nobody
    objects. ``mutates`` names the arguments that the kernel writes into.
    """

    name: str
    variant: str
    target: str
    facts: Mapping[str, Any]  # Any: numbers, words and flags
    mutates: tuple[str, ...] = ()
    differentiable: bool = True

    @property
    def id(self) -> str:
        """The name in configs and tables: ``rms_norm``, ``rms_norm__one_plus_w``."""
        return self.name if self.variant == STANDARD else f"{self.name}__{self.variant}"


def _op(  # Any: see Op.facts
    name: str, place: str, /, mutates: tuple[str, ...] = (), *, differentiable: bool = True, **facts: Any
) -> Op:
    name, _, variant = name.partition(".")
    return Op(
        name, variant or STANDARD, f"{_REFERENCE}.{place}", facts, mutates, differentiable and not mutates
    )


_HEADS: dict[str, Any] = {"head_dim": None, "num_heads": None, "num_kv_heads": None}  # Any: see Op.facts
_SPAN: dict[str, Any] = {"window": None, "sink": False}  # a window of None is no window
_ATTENTION: dict[str, Any] = {**_HEADS, **_SPAN, "causal": True, "align": "end", "segments": True}
_STATE = ("params", "exp_avgs", "exp_avg_sqs")

# In the order in which a start-up test spends its time: what every decoder runs comes first.
OPS: tuple[Op, ...] = (
    _op("rms_norm", "norm:rms_norm", size=None),
    _op("rms_norm.add", "norm:add_rms_norm", size=None),
    _op("rope.half", "rope:rope_half", head_dim=None, rotary_dim=None),
    _op("swiglu", "activation:swiglu", size=None),
    _op("linear", "linear:linear", in_features=None, out_features=None),
    _op("attention", "attention:attention", **_ATTENTION),
    _op("token_log_probs", "log_prob:token_log_probs", vocab_size=None),
    _op("adamw", "adamw:adamw", mutates=_STATE),
    _op("muon_step", "muon:muon_step", mutates=("param", "momentum_buffer")),
    _op("decode_attention", "decode:decode_attention", **_HEADS, **_SPAN),
    _op("paged_attention", "decode:paged_attention", page_size=None, **_HEADS, **_SPAN),
    _op("top_k_top_p", "sampling:top_k_top_p", vocab_size=None),
    _op("lora_linear", "lora:lora_linear", rank=None),
    _op("cross_entropy", "cross_entropy:cross_entropy", vocab_size=None),
    _op("cross_entropy.vocab_parallel", "cross_entropy:vocab_parallel_cross_entropy", vocab_size=None),
    _op("gather_log_probs", "log_prob:gather_log_probs", vocab_size=None),
    _op("attention.with_lse", "attention:attention_with_lse", **_ATTENTION),
    _op("rms_norm.one_plus_w", "norm:rms_norm_one_plus_w", size=None),
    _op("layer_norm", "norm:layer_norm", size=None),
    _op("rope.interleave", "rope:rope_interleave", head_dim=None, rotary_dim=None),
    _op("geglu.erf", "activation:geglu_erf", size=None),
    _op("geglu.tanh", "activation:geglu_tanh", size=None),
    _op("grouped_matmul", "moe:grouped_matmul", num_experts=None),
    _op("moe_gate.softmax", "moe:moe_gate_softmax", num_experts=None, top_k=None),
    _op("moe_gate.sigmoid", "moe:moe_gate_sigmoid", num_experts=None, top_k=None),
    _op("moe_permute", "moe:moe_permute", num_experts=None, top_k=None),
    _op("moe_unpermute", "moe:moe_unpermute", top_k=None),
    _op("int8_matmul", "quant:int8_matmul", differentiable=False),
    _op("packed_matmul", "quant:packed_matmul", bits=None, group_size=None),
    _op("nf4_dequantize", "quant:nf4_dequantize", block_size=None),
)


def find_op(name: str, variant: str = STANDARD) -> Op:
    """Return the op. Raises: CapabilityError with the nearest known name or the known variants."""
    variants = {op.variant: op for op in OPS if op.name == name}
    if not variants:
        names = {op.name for op in OPS}
        raise CapabilityError(
            f"no kernel computes '{name}'.{did_you_mean(name, names)} Known: {sorted(names)}"
        )
    if variant not in variants:
        raise CapabilityError(f"{name} has no variant '{variant}'; it has {', '.join(sorted(variants))}")
    return variants[variant]


def complete_facts(op: Op, given: Mapping[str, Any]) -> dict[str, Any]:  # Any: see Op.facts
    """Return the facts of ``op`` with defaults for those not given. Raises: CapabilityError for an unknown
    one."""
    for name in given:
        if name not in op.facts:
            raise CapabilityError(
                f"{op.id} knows no fact '{name}'.{did_you_mean(name, op.facts)} "
                f"Known: {', '.join(op.facts) or 'none'}"
            )
    return {**op.facts, **given}
