"""Kernels that are wrong in one point each, and their twins that are right: what conformance must tell apart.

Each kernel is written once, apart from the reference, and takes the name of its fault; "" is the right one.
"""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from portable.kernel.reference import cross_entropy as reference_cross_entropy
from portable.kernel.reference import quant


def _rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6, *, fault: str = "") -> Tensor:
    if fault == "sums in bf16":
        x = x.bfloat16().to(x.dtype)
    if fault == "squares in 16 bits":
        mean = x.square().mean(-1, keepdim=True).float()
    else:
        mean = x.float().square().mean(-1, keepdim=True)
    if fault == "no eps":
        scale = mean.rsqrt()
    elif fault == "eps outside the root":
        scale = 1 / (mean.sqrt() + eps)
    else:
        scale = (mean + eps).rsqrt()
    if fault == "strides ignored":
        x = torch.as_strided(x, x.shape, torch.empty(x.shape).stride(), x.storage_offset())
    normed = (x.float() * scale).to(x.dtype)
    if fault == "constant weight":
        weight = weight.detach()
    out = weight * normed
    if fault == "random":
        out = out * (1 + 1e-7 * torch.randn_like(out).sign())
    if fault == "reads data":
        return torch.from_numpy((weight * normed).detach().numpy().copy()).to(x.dtype)
    if fault == "writes":
        x.detach().mul_(1)
        x.detach().view(-1)[:1] = 0
    return out.float() if fault == "float32" else out.to(x.dtype)


def _layer_norm(
    x: Tensor, weight: Tensor, bias_D: Tensor | None = None, eps: float = 1e-5, *, fault: str = ""
) -> Tensor:
    wide = x.float()
    variance = wide.var(-1, keepdim=True, unbiased=fault == "unbiased variance")
    out = (wide - wide.mean(-1, keepdim=True)) * (variance + eps).rsqrt() * weight.float()
    return (out if bias_D is None else out + bias_D.float()).to(x.dtype)


def _rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *, fault: str = "") -> tuple[Tensor, Tensor]:
    def turn(x: Tensor) -> Tensor:
        size = cos.shape[-1]
        wide, rest = x[..., :size].float(), x[..., size:]
        first, second = wide.chunk(2, -1)
        if fault == "sign":
            other = torch.cat((second, -first), -1)
        elif fault == "pairing":
            other = torch.stack((-wide[..., 1::2], wide[..., ::2]), -1).flatten(-2)
        else:
            other = torch.cat((-second, first), -1)
        out = wide * cos.float().unsqueeze(2) + other * sin.float().unsqueeze(2)
        if fault == "passing dims cleared":
            rest = rest * 0
        return torch.cat((out.to(x.dtype), rest), -1)

    return turn(q), turn(k)


def _swiglu(gate: Tensor, up: Tensor, *, fault: str = "") -> Tensor:
    wide = gate.float()
    # exp(x) / (1 + exp(x)) is nan where exp overflows.
    act = wide * wide.exp() / (1 + wide.exp()) if fault == "naive exp" else F.silu(wide)
    return act.to(gate.dtype) * up


def _attention_with_lse(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    fault: str = "",
    **rest: Any,
) -> tuple[Tensor, Tensor]:
    if cu_seqlens is None or fault == "segments ignored":
        return _attend(q, k, v, fault=fault, **rest)
    cu_seqlens_k = cu_seqlens if cu_seqlens_k is None else cu_seqlens_k
    flat = [x.flatten(0, 1).unsqueeze(0) for x in (q, k, v)]
    outs, lses = [], []
    for (a, b), (c, d) in zip(
        itertools.pairwise(cu_seqlens.tolist()), itertools.pairwise(cu_seqlens_k.tolist()), strict=True
    ):
        out, lse = _attend(flat[0][:, a:b], flat[1][:, c:d], flat[2][:, c:d], fault=fault, **rest)
        outs.append(out)
        lses.append(lse)
    return torch.cat(outs, 1).view(q.shape), torch.cat(lses, 1).view(q.shape[:3])


def _attention(q: Tensor, k: Tensor, v: Tensor, **rest: Any) -> Tensor:
    return _attention_with_lse(q, k, v, **rest)[0]


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    align: str,
    window: int | None,
    scale: float | None,
    sink_N: Tensor | None = None,
    fault: str = "",
) -> tuple[Tensor, Tensor]:
    group = q.shape[2] // k.shape[2]
    if fault == "query head n reads key head n % K":
        k, v = (x.repeat(1, 1, group, 1) for x in (k, v))
    else:
        k, v = (x.repeat_interleave(group, 2) for x in (k, v))
    factor = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    factor = 1.0 if fault == "no scale" else factor
    scores = torch.einsum("btnh,bsnh->bnts", q.float(), k.float()) * factor
    offset = k.shape[1] - q.shape[1] if align == "end" and fault != "top left" else 0
    distance = torch.arange(q.shape[1])[:, None] + offset - torch.arange(k.shape[1])
    seen = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    if window is not None:
        width = window + {"window too wide": 1, "window too narrow": -1}.get(fault, 0)
        seen = seen & (
            (distance < width) if fault == "window open to the future" else (distance.abs() < width)
        )
    scores = scores.masked_fill(~seen, -math.inf)
    lse = scores.logsumexp(-1)
    if sink_N is not None and fault != "sink added to the output":
        lse = torch.logaddexp(lse, sink_N.float()[:, None])
    if fault == "no maximum taken off":
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    elif fault == "nan where nothing is seen":
        weights = (scores - lse.unsqueeze(-1)).exp()
    else:
        weights = (scores - lse.masked_fill(lse == -math.inf, 0.0).unsqueeze(-1)).exp()
    out = torch.einsum("bnts,bsnh->btnh", weights, v.float())
    if sink_N is not None and fault == "sink added to the output":
        out = out + sink_N[:, None]
    lse = lse.transpose(1, 2)
    return out.to(q.dtype), lse / math.log(2) if fault == "lse to base 2" else lse


def _decode(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor,
    *,
    window: int | None = None,
    sink_N: Tensor | None = None,
    scale: float | None = None,
    fault: str = "",
) -> Tensor:
    rows = []
    for row, length in enumerate(lengths.tolist()):
        end = k.shape[1] if fault == "reads behind the length" else length
        keys, values = (x[row : row + 1, :end] for x in (k, v))
        query = q[row].view(1, 1, *q.shape[1:])
        given = {"causal": True, "align": "end", "window": window, "scale": scale, "sink_N": sink_N}
        rows.append(_attend(query, keys, values, **given)[0].view(1, *q.shape[1:]))
    return torch.cat(rows) if rows else q * 0


def _cross_entropy(logits: Tensor, targets: Tensor, *, z_loss: float = 0.0, fault: str = "") -> Tensor:
    counted = targets >= 0 if fault != "counts ignored rows" else torch.ones_like(targets, dtype=torch.bool)
    wide = logits.float().masked_fill(~counted[:, None], 0.0)
    norm = wide.exp().sum(-1).log() if fault == "no maximum taken off" else wide.logsumexp(-1)
    loss = norm - wide.gather(-1, targets.clamp(min=0)[:, None]).squeeze(-1)
    if z_loss:
        loss = loss + z_loss * (norm if fault == "z not squared" else norm.square())
    return loss.masked_fill(~counted, 0.0)


def _vocab_parallel(logits: Tensor, targets: Tensor, *, reduce: Any, fault: str = "", **rest: Any) -> Tensor:
    if fault == "a third reduction":
        reduce(torch.zeros_like(targets, dtype=torch.float32), "max")
    return reference_cross_entropy.vocab_parallel_cross_entropy(logits, targets, reduce=reduce, **rest)


def _adamw(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    fault: str = "",
) -> None:
    counted = step - 1 if fault == "bias corrected by step - 1" else step
    corrections = 1 - beta1**counted, 1 - beta2**counted
    for param, grad, avg, square in zip(params, grads, exp_avgs, exp_avg_sqs, strict=True):
        wide, slope = param.float(), grad.float()
        if fault == "decay in the gradient":
            slope = slope + weight_decay * wide
        avg.copy_(beta1 * avg.float() + (1 - beta1) * slope)
        square.copy_(beta2 * square.float() + (1 - beta2) * slope.square())
        if fault not in ("decay in the gradient", "no decay"):
            wide = wide * (1 - lr * weight_decay)
        root = (square.float() / corrections[1]).sqrt()
        root = (root.square() + eps).sqrt() if fault == "eps in the root" else root + eps
        param.copy_(wide - lr * (avg.float() / corrections[0]) / root)


def _moe_permute(
    x: Tensor, experts: Tensor, num_experts: int, *, fault: str = ""
) -> tuple[Tensor, Tensor, Tensor]:
    flat = experts.flatten()
    if fault == "not stable":
        order = flat.numel() - 1 - flat.flip(0).argsort(stable=True)
    else:
        order = flat.argsort(stable=True)
    slots = torch.empty_like(flat).scatter_(0, order, torch.arange(flat.numel()))
    counts = torch.bincount(flat, minlength=num_experts)
    return x[order // experts.shape[1]], slots.view_as(experts), counts


def _moe_unpermute(y: Tensor, slots: Tensor, weights: Tensor, *, fault: str = "") -> Tensor:
    if fault == "sums in 16 bits":
        total = torch.zeros(slots.shape[0], y.shape[1], dtype=y.dtype)
        for choice in range(slots.shape[1]):
            total = total + y[slots[:, choice]] * weights[:, choice, None].to(y.dtype)
        return total
    return (y[slots].float() * weights[..., None].float()).sum(1).to(y.dtype)


def _moe_gate(
    logits: Tensor, *, top_k: int, renormalize: bool = True, fault: str = ""
) -> tuple[Tensor, Tensor]:
    probs = logits.float().softmax(-1)
    experts = _best_first(logits.float(), last_of_equals=fault == "last of equals")[:, :top_k]
    weights = probs.gather(-1, experts)
    return (weights / weights.sum(-1, keepdim=True) if renormalize else weights), experts


def _best_first(x: Tensor, *, last_of_equals: bool) -> Tensor:
    if last_of_equals:
        return x.shape[-1] - 1 - x.flip(-1).sort(dim=-1, descending=True, stable=True).indices
    return x.sort(dim=-1, descending=True, stable=True).indices


def _int8_matmul(x: Tensor, weight: Tensor, scale: Tensor, *, fault: str = "") -> Tensor:
    steps = x.float().abs().amax(-1, keepdim=True) / 127
    quotient = x.float() / steps.masked_fill(steps == 0, 1.0)
    codes = quotient.trunc() if fault == "truncated" else quotient.round()
    sums = codes.double() @ weight.double().T
    return (sums.float() * steps * scale.float()).to(x.dtype)


def _packed_matmul(
    x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, *, bits: int, group_size: int, fault: str = ""
) -> Tensor:
    if fault == "zero off by one":
        zeros = zeros + 1
    if fault == "sign bits of a word":
        values = quant.unpack(codes, bits)
        values = torch.where(values >= 2 ** (bits - 1), values - 2**bits, values)
    else:
        values = quant.unpack(codes, bits)
    groups = values.float().unflatten(-1, (-1, group_size))
    weight = ((groups - zeros.float()[..., None]) * scales.float()[..., None]).flatten(1)
    return x @ weight.to(x.dtype).T


def _top_k_top_p(logits: Tensor, top_k: Tensor, top_p: Tensor, *, fault: str = "") -> Tensor:
    logits = logits.float()
    order = _best_first(logits, last_of_equals=fault == "last of equals")
    ranked = logits.gather(-1, order)
    rank = torch.arange(logits.shape[-1])
    cut = (top_k[:, None] > 0) & (rank >= top_k[:, None])
    reached = ranked.masked_fill(cut, -math.inf).softmax(-1).cumsum(-1)
    before = reached - ranked.masked_fill(cut, -math.inf).softmax(-1)
    done = reached if fault == "drops the token that crosses" else before
    cut = cut | ((done >= top_p[:, None]) & (top_p[:, None] < 1))
    cut[:, :1] = False
    return logits.masked_fill(torch.empty_like(cut).scatter(1, order, cut), -math.inf)


KERNELS = {
    "rms_norm": _rms_norm,
    "layer_norm": _layer_norm,
    "rope__half": _rope,
    "swiglu": _swiglu,
    "attention": _attention,
    "attention__with_lse": _attention_with_lse,
    "decode_attention": _decode,
    "cross_entropy": _cross_entropy,
    "cross_entropy__vocab_parallel": _vocab_parallel,
    "adamw": _adamw,
    "moe_permute": _moe_permute,
    "moe_unpermute": _moe_unpermute,
    "moe_gate__softmax": _moe_gate,
    "int8_matmul": _int8_matmul,
    "packed_matmul": _packed_matmul,
    "top_k_top_p": _top_k_top_p,
}


def __getattr__(name: str) -> Any:  # ``mutants:attention/no scale`` is a target
    op, slash, fault = name.partition("/")
    if not slash or op not in KERNELS:
        raise AttributeError(name)
    return partial(KERNELS[op], fault=fault)
