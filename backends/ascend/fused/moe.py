"""Mixture of experts by the NPU's fused operators.

Shapes: N tokens, E experts, K experts a token, M = N * K rows in the order of their experts, D in, F out.
Limits: the softmax gate chooses to 1024 experts a token; the sigmoid gate of 3 to 2048; permuting takes to
512 a token; grouped_matmul to 1024 experts.
Source: torch_npu 2.13.0, documentation of the operators. The gates are documented for inference: they choose,
and where a gradient is asked for torch computes the weights of what they chose.
"""

from __future__ import annotations

from typing import Any

import torch
import torch_npu
from torch import Tensor
from torch.autograd.function import once_differentiable

from portable.kernel.reference import moe as reference
from portable.kernel.reference.precision import linear_dtype, matmul_operands

_TOP_K_FIRST = 1  # renorm: softmax of the chosen logits, which is the renormalised softmax of all
_SIGMOID = 1  # norm_type
_BY_ROWS, _ONE_OUTPUT = 0, 3  # group_type, split_item
_FORMATS = (torch.float16, torch.bfloat16)


def moe_gate_softmax(logits_NE: Tensor, *, top_k: int, renormalize: bool = True) -> tuple[Tensor, Tensor]:
    """Compute ``moe_gate_softmax`` of the reference."""
    reference.check_gate("moe_gate_softmax", logits_NE, top_k)
    if logits_NE.numel() == 0:
        return reference.moe_gate_softmax(logits_NE, top_k=top_k, renormalize=renormalize)
    logits = logits_NE.float()
    weights, chosen, _ = torch_npu.npu_moe_gating_top_k_softmax_v2(
        logits.detach().contiguous(), k=top_k, renorm=_TOP_K_FIRST
    )
    experts = chosen.long()
    if renormalize and not logits.requires_grad:
        return weights, experts
    weights = logits.softmax(-1).gather(-1, experts)
    return (weights / weights.sum(-1, keepdim=True) if renormalize else weights), experts


def moe_gate_sigmoid(
    logits_NE: Tensor,
    *,
    top_k: int,
    bias_E: Tensor | None = None,
    renormalize: bool = True,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Compute ``moe_gate_sigmoid`` of the reference; its weights are torch's.

    Releases of CANN differ in whether the operator's own weights contain the bias.
    """
    reference.check_gate("moe_gate_sigmoid", logits_NE, top_k, bias_E)
    if logits_NE.numel() == 0:
        return reference.moe_gate_sigmoid(
            logits_NE, top_k=top_k, bias_E=bias_E, renormalize=renormalize, scale=scale
        )
    logits = logits_NE.float()
    _, chosen, _ = torch_npu.npu_moe_gating_top_k(
        logits.detach().contiguous(),
        top_k,
        bias=None if bias_E is None else bias_E.detach().float().contiguous(),
        norm_type=_SIGMOID,
    )
    experts = chosen.long()
    weights = logits.gather(-1, experts).sigmoid()
    if renormalize:
        weights = weights / (weights.sum(-1, keepdim=True) + reference.NORM_EPS)
    return (weights if scale == 1.0 else weights * scale), experts


def moe_permute(x_ND: Tensor, experts_NK: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Compute ``moe_permute`` of the reference."""
    reference.check_choices(x_ND, experts_NK)
    if x_ND.numel() == 0 or experts_NK.numel() == 0:
        return reference.moe_permute(x_ND, experts_NK, num_experts)
    permuted_MD, places_M = torch_npu.npu_moe_token_permute(x_ND.contiguous(), experts_NK.contiguous())
    counts_E = reference.count_rows(experts_NK, num_experts)
    return permuted_MD, places_M.long().view(experts_NK.shape), counts_E


def moe_unpermute(y_MD: Tensor, slots_NK: Tensor, weights_NK: Tensor) -> Tensor:
    """Compute ``moe_unpermute`` of the reference."""
    reference.check_slots(y_MD, slots_NK, weights_NK)
    if y_MD.numel() == 0:
        return reference.moe_unpermute(y_MD, slots_NK, weights_NK)
    return torch_npu.npu_moe_token_unpermute(
        y_MD.contiguous(), slots_NK.flatten().to(torch.int32), probs=weights_NK.contiguous()
    )


def grouped_matmul(x_MD: Tensor, weight_EDF: Tensor, counts_E: Tensor) -> Tensor:
    """Compute ``grouped_matmul`` of the reference."""
    counts = reference.group_sizes(x_MD, weight_EDF, counts_E)
    if x_MD.numel() == 0 or weight_EDF.numel() == 0:
        return reference.grouped_matmul(x_MD, weight_EDF, counts_E)
    x, weight = matmul_operands(x_MD, weight_EDF)
    return _GroupedMatmul.apply(x, weight, counts_E, counts).to(linear_dtype(x_MD))


class _GroupedMatmul(torch.autograd.Function):
    """torch_npu has no gradient for the operator: of x it is the same product with transposed matrices."""

    # Any: the context is torch's own
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, counts_E: Tensor, counts: list[int]) -> Tensor:
        ends_E = counts_E.to(torch.int64).cumsum(0)
        ctx.counts = counts
        ctx.save_for_backward(x, weight, ends_E)
        return _by_group(x, weight.contiguous(), ends_E)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight, ends_E = ctx.saved_tensors
        needs_x, needs_weight, *_ = ctx.needs_input_grad
        d_x = _by_group(dy, weight.transpose(1, 2).contiguous(), ends_E) if needs_x else None
        d_weight = _gradient_of_weight(x, dy, weight, ends_E, ctx.counts) if needs_weight else None
        return d_x, d_weight, None, None


def _by_group(x_MD: Tensor, weight_EDF: Tensor, ends_E: Tensor) -> Tensor:
    (product,) = torch_npu.npu_grouped_matmul(
        [x_MD.contiguous()], [weight_EDF], group_list=ends_E, split_item=_ONE_OUTPUT, group_type=_BY_ROWS
    )
    return product


def _gradient_of_weight(x: Tensor, dy: Tensor, weight: Tensor, ends_E: Tensor, counts: list[int]) -> Tensor:
    """Return x^T dy of every group."""
    if x.dtype not in _FORMATS:  # npu_grouped_matmul_add takes 16-bit numbers only
        groups = zip(x.split(counts), dy.split(counts), strict=True)
        return torch.stack([rows.T @ gradients for rows, gradients in groups])
    zeros = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
    return torch_npu.npu_grouped_matmul_add(zeros, x.contiguous(), dy.contiguous(), ends_E).to(weight.dtype)
