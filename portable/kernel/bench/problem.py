"""Problems of the size that models have: one for every op, small and medium.

Letters: T tokens, D hidden, N query heads, K key-value heads, H head_dim, V vocabulary, B rows,
S positions, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from portable.kernel.conformance.case import Draw, Inputs
from portable.kernel.reference.quant import quantize_int8, quantize_nf4, quantize_packed

PAGE = 16
BITS = 4
GROUP = 64


class Size(Enum):
    """What a problem is like: a tutorial's model, or one layer of a model of a billion parameters."""

    small = "small"
    medium = "medium"


@dataclass(frozen=True, slots=True)
class Dims:
    """The numbers that problems are made of."""

    tokens: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    rows: int
    positions: int
    experts: int
    seq_len: int


DIMS = {
    Size.small: Dims(1024, 256, 8, 4, 32, 4096, 16, 256, 8, 128),
    Size.medium: Dims(4096, 1024, 16, 4, 64, 32000, 32, 1024, 16, 512),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """What an op is measured with. ``flops`` are those of the forward pass.

    ``read_bytes`` is given where less is needed than all inputs hold. ``leaves`` names the inputs whose
    gradients are measured, none for ops of inference.
    """

    op: str
    inputs: Inputs
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])  # Any: see Op.facts
    leaves: tuple[str, ...] = ()
    flops: float = 0.0
    read_bytes: float | None = None


Build = Callable[[Draw, Dims], Problem]


def make_problem(op: str, size: Size, dtype: torch.dtype) -> Problem:
    """Return the problem of the op with this id, on the host, the same at each call."""
    return PROBLEMS[op](Draw(0, dtype), DIMS[size])


def _norm(op: str, *, residual: bool = False) -> Build:
    def build(draw: Draw, d: Dims) -> Problem:
        inputs: Inputs = {"x": draw.normal(d.tokens, d.hidden)}
        if residual:
            inputs["residual"] = draw.normal(d.tokens, d.hidden)
        inputs["weight"] = draw.normal(d.hidden, wide=True)
        return Problem(op, inputs, {"size": d.hidden}, tuple(inputs))

    return build


def _gate(op: str) -> Build:
    def build(draw: Draw, d: Dims) -> Problem:
        gate, up = (draw.normal(d.tokens, 3 * d.hidden) for _ in range(2))
        return Problem(op, {"gate": gate, "up": up}, {"size": 3 * d.hidden}, ("gate", "up"))

    return build


def _rope(op: str, *, neighbours: bool = False) -> Build:
    def build(draw: Draw, d: Dims) -> Problem:
        q = draw.normal(1, d.tokens, d.heads, d.head_dim)
        k = draw.normal(1, d.tokens, d.kv_heads, d.head_dim)
        angles = draw.uniform(1, d.tokens, d.head_dim // 2, high=6.0, wide=True)
        angles = angles.repeat_interleave(2, -1) if neighbours else torch.cat((angles, angles), -1)
        facts = {"head_dim": d.head_dim, "rotary_dim": d.head_dim}
        return Problem(op, {"q": q, "k": k, "cos": angles.cos(), "sin": angles.sin()}, facts, ("q", "k"))

    return build


def _attention(op: str) -> Build:
    def build(draw: Draw, d: Dims) -> Problem:
        rows = d.tokens // d.seq_len
        heads = {"q": d.heads, "k": d.kv_heads, "v": d.kv_heads}
        inputs: Inputs = {
            name: draw.normal(rows, d.seq_len, count, d.head_dim) for name, count in heads.items()
        }
        pairs = rows * d.seq_len * (d.seq_len + 1) / 2  # what causality leaves
        return Problem(op, inputs, _heads(d), tuple(inputs), flops=4 * pairs * d.heads * d.head_dim)

    return build


def _heads(d: Dims) -> dict[str, int]:
    return {"head_dim": d.head_dim, "num_heads": d.heads, "num_kv_heads": d.kv_heads}


def _decode(draw: Draw, d: Dims) -> Problem:
    q = draw.normal(d.rows, d.heads, d.head_dim)
    k, v = (draw.normal(d.rows, d.positions, d.kv_heads, d.head_dim) for _ in range(2))
    lengths = draw.whole(d.positions // 2, d.positions + 1, d.rows)
    inputs: Inputs = {"q": q, "k": k, "v": v, "lengths": lengths}
    return _of_cache("decode_attention", inputs, d, {})


def _paged(draw: Draw, d: Dims) -> Problem:
    num_pages = d.rows * d.positions // PAGE
    q = draw.normal(d.rows, d.heads, d.head_dim)
    k, v = (draw.normal(num_pages, PAGE, d.kv_heads, d.head_dim) for _ in range(2))
    table = draw.order(num_pages).view(d.rows, -1)
    lengths = draw.whole(d.positions // 2, d.positions + 1, d.rows)
    inputs: Inputs = {"q": q, "k": k, "v": v, "table": table, "lengths": lengths}
    return _of_cache("paged_attention", inputs, d, {"page_size": PAGE})


def _of_cache(op: str, inputs: Inputs, d: Dims, facts: Mapping[str, int]) -> Problem:
    q: Tensor = inputs["q"]
    positions = int(inputs["lengths"].sum())
    read = q.nbytes + 2 * positions * d.kv_heads * d.head_dim * q.element_size()
    flops = 4.0 * positions * d.heads * d.head_dim
    return Problem(op, inputs, {**_heads(d), **facts}, flops=flops, read_bytes=float(read))


def _head(draw: Draw, d: Dims) -> Problem:
    tokens = d.tokens // 4
    hidden = draw.normal(tokens, d.hidden)
    weight = draw.normal(d.vocab, d.hidden, std=0.02)
    targets = _half_ignored(draw, tokens, d.vocab)
    flops = 2.0 * int((targets >= 0).sum()) * d.hidden * d.vocab
    inputs: Inputs = {"hidden": hidden, "weight": weight, "targets": targets}
    return Problem("token_log_probs", inputs, {"vocab_size": d.vocab}, ("hidden", "weight"), flops=flops)


def _half_ignored(draw: Draw, tokens: int, vocab: int) -> Tensor:
    targets = draw.whole(0, vocab, tokens)
    targets[::2] = -100
    return targets


def _loss(op: str) -> Build:
    def build(draw: Draw, d: Dims) -> Problem:
        tokens = d.tokens // 8
        inputs: Inputs = {
            "logits": draw.normal(tokens, d.vocab),
            "targets": draw.whole(0, d.vocab, tokens),
        }
        return Problem(op, inputs, {"vocab_size": d.vocab}, ("logits",))

    return build


def _vocab_parallel(draw: Draw, d: Dims) -> Problem:
    problem = _loss("cross_entropy__vocab_parallel")(draw, d)
    return Problem(
        problem.op,
        {**problem.inputs, "vocab_start": 0, "reduce": lambda x, op: x},
        problem.facts,
        problem.leaves,
    )


def _linear(draw: Draw, d: Dims) -> Problem:
    inputs: Inputs = {
        "x": draw.normal(d.tokens, d.hidden),
        "weight": draw.normal(d.hidden, d.hidden, std=0.02),
    }
    facts = {"in_features": d.hidden, "out_features": d.hidden}
    return Problem("linear", inputs, facts, ("x", "weight"), flops=2.0 * d.tokens * d.hidden * d.hidden)


def _lora(draw: Draw, d: Dims) -> Problem:
    rank = 16
    inputs: Inputs = {
        "x": draw.normal(d.tokens, d.hidden),
        "weight": draw.normal(d.hidden, d.hidden, std=0.02),
        "a": draw.normal(rank, d.hidden, std=0.02),
        "b": draw.normal(d.hidden, rank, std=0.02),
        "scale": 2.0,
    }
    flops = 2.0 * d.tokens * d.hidden * (d.hidden + 2 * rank)
    return Problem("lora_linear", inputs, {"rank": rank}, ("x", "a", "b"), flops=flops)


def _adamw(draw: Draw, d: Dims) -> Problem:
    shapes = [(d.hidden, d.hidden)] * 8 + [(d.hidden,)] * 8
    names = ("params", "grads", "exp_avgs", "exp_avg_sqs")
    inputs: Inputs = {name: [draw.uniform(*shape, wide=True) for shape in shapes] for name in names}
    inputs |= {"step": 3, "lr": 1e-4, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
    return Problem("adamw", inputs)


def _muon(draw: Draw, d: Dims) -> Problem:
    names = ("param", "grad", "momentum_buffer")
    inputs: Inputs = {name: draw.normal(d.hidden, d.hidden, wide=True) for name in names}
    inputs |= {"lr": 1e-4, "momentum": 0.95, "weight_decay": 0.1}
    return Problem("muon_step", inputs, flops=5 * 3 * 2.0 * d.hidden**3)


def _sampling(draw: Draw, d: Dims) -> Problem:
    inputs: Inputs = {
        "logits": draw.normal(d.rows, d.vocab, std=2.0),
        "top_k": torch.full((d.rows,), 50),
        "top_p": torch.full((d.rows,), 0.9),
    }
    return Problem("top_k_top_p", inputs, {"vocab_size": d.vocab})


def _experts(op: str) -> Build:
    def build(draw: Draw, d: Dims) -> Problem:
        top_k = 2
        logits = draw.normal(d.tokens, d.experts, wide=True)
        experts = logits.topk(top_k).indices
        facts = {"num_experts": d.experts, "top_k": top_k}
        if op.startswith("moe_gate"):
            return Problem(op, {"logits": logits, "top_k": top_k}, facts, ("logits",))
        if op == "moe_permute":
            inputs: Inputs = {
                "x": draw.normal(d.tokens, d.hidden),
                "experts": experts,
                "num_experts": d.experts,
            }
            return Problem(op, inputs, facts, ("x",))
        rows = d.tokens * top_k
        if op == "moe_unpermute":
            slots = draw.order(rows).view(d.tokens, top_k)
            weights = draw.uniform(d.tokens, top_k, wide=True)
            inputs = {"y": draw.normal(rows, d.hidden), "slots": slots, "weights": weights}
            return Problem(op, inputs, {"top_k": top_k}, ("y", "weights"))
        counts = experts.flatten().bincount(minlength=d.experts)
        weight = draw.normal(d.experts, d.hidden, d.hidden, std=0.02)
        inputs = {"x": draw.normal(rows, d.hidden), "weight": weight, "counts": counts}
        flops = 2.0 * rows * d.hidden**2
        return Problem(op, inputs, {"num_experts": d.experts}, ("x", "weight"), flops=flops)

    return build


def _int8(draw: Draw, d: Dims) -> Problem:
    weight, scale = quantize_int8(draw.normal(d.hidden, d.hidden, wide=True))
    inputs: Inputs = {"x": draw.normal(d.rows, d.hidden), "weight": weight, "scale": scale}
    return Problem("int8_matmul", inputs, flops=2.0 * d.rows * d.hidden**2)


def _packed(draw: Draw, d: Dims) -> Problem:
    packed = quantize_packed(draw.normal(d.hidden, d.hidden, wide=True), BITS, GROUP)
    inputs: Inputs = {
        "x": draw.normal(1, d.hidden),
        **dict(zip(("codes", "scales", "zeros"), packed, strict=True)),
        "bits": BITS,
        "group_size": GROUP,
    }
    return Problem("packed_matmul", inputs, {"bits": BITS, "group_size": GROUP}, flops=2.0 * d.hidden**2)


def _nf4(draw: Draw, d: Dims) -> Problem:
    codes, absmax = quantize_nf4(draw.normal(d.hidden, d.hidden, wide=True), GROUP)
    inputs: Inputs = {
        "codes": codes,
        "absmax": absmax,
        "shape": (d.hidden, d.hidden),
        "block_size": GROUP,
        "dtype": draw.dtype,
    }
    return Problem("nf4_dequantize", inputs, {"block_size": GROUP})


PROBLEMS: dict[str, Build] = {
    "rms_norm": _norm("rms_norm"),
    "rms_norm__add": _norm("rms_norm__add", residual=True),
    "rms_norm__one_plus_w": _norm("rms_norm__one_plus_w"),
    "layer_norm": _norm("layer_norm"),
    "rope__half": _rope("rope__half"),
    "rope__interleave": _rope("rope__interleave", neighbours=True),
    "swiglu": _gate("swiglu"),
    "geglu__erf": _gate("geglu__erf"),
    "geglu__tanh": _gate("geglu__tanh"),
    "attention": _attention("attention"),
    "attention__with_lse": _attention("attention__with_lse"),
    "decode_attention": _decode,
    "paged_attention": _paged,
    "token_log_probs": _head,
    "cross_entropy": _loss("cross_entropy"),
    "cross_entropy__vocab_parallel": _vocab_parallel,
    "gather_log_probs": _loss("gather_log_probs"),
    "linear": _linear,
    "lora_linear": _lora,
    "adamw": _adamw,
    "muon_step": _muon,
    "top_k_top_p": _sampling,
    "moe_gate__softmax": _experts("moe_gate__softmax"),
    "moe_gate__sigmoid": _experts("moe_gate__sigmoid"),
    "moe_permute": _experts("moe_permute"),
    "moe_unpermute": _experts("moe_unpermute"),
    "grouped_matmul": _experts("grouped_matmul"),
    "int8_matmul": _int8,
    "packed_matmul": _packed,
    "nf4_dequantize": _nf4,
}
