"""Mixture of experts without further copies of the rows, of which there are K for every token.

Shapes: N tokens, E experts, K experts a token, M = N * K rows in the order of their experts, D in, F out.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from portable.kernel.reference.moe import check_choices, check_slots, count_rows, group_sizes, sort_choices
from portable.kernel.reference.precision import accumulation_dtype, linear_dtype, matmul_operands

# Values of rows gathered at a time: 16 MiB in float32.
CHUNK_VALUES = 2**22


def moe_permute(x_ND: Tensor, experts_NK: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Compute ``moe_permute`` of the reference."""
    check_choices(x_ND, experts_NK)
    order_M, slots_NK = sort_choices(experts_NK)
    return _Permute.apply(x_ND, order_M, slots_NK), slots_NK, count_rows(experts_NK, num_experts)


def moe_unpermute(y_MD: Tensor, slots_NK: Tensor, weights_NK: Tensor) -> Tensor:
    """Compute ``moe_unpermute`` of the reference."""
    check_slots(y_MD, slots_NK, weights_NK)
    return _Unpermute.apply(y_MD, slots_NK, weights_NK)


def grouped_matmul(x_MD: Tensor, weight_EDF: Tensor, counts_E: Tensor) -> Tensor:
    """Compute ``grouped_matmul`` of the reference."""
    counts = group_sizes(x_MD, weight_EDF, counts_E)
    x, weight = matmul_operands(x_MD, weight_EDF)
    return _GroupedMatmul.apply(x, weight, counts).to(linear_dtype(x_MD))


class _Permute(torch.autograd.Function):
    """Rows are read where they lie; a token's gradients are added up as soon as they are gathered."""

    # Any: the context is torch's own
    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        return x.index_select(0, order // max(1, slots.shape[1]))

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None, None]:
        (grad,) = grad_outputs
        (slots,) = ctx.saved_tensors
        grad_x = grad.new_empty(len(slots), grad.shape[1])
        for tokens in _chunks(slots, grad.shape[1]):
            torch.sum(grad[slots[tokens]], 1, out=grad_x[tokens])
        return grad_x, None, None


class _Unpermute(torch.autograd.Function):
    """The rows of some tokens at a time are widened to float32, weighed and added up."""

    # Any: the context is torch's own
    @staticmethod
    def forward(ctx: Any, y: Tensor, slots: Tensor, weights: Tensor) -> Tensor:
        # Only the weights' gradients need the rows.
        ctx.save_for_backward(y if ctx.needs_input_grad[2] else None, slots, weights)
        dtype = accumulation_dtype(y)
        out = y.new_empty(len(slots), y.shape[1])
        for tokens in _chunks(slots, y.shape[1]):
            rows = y[slots[tokens]].to(dtype)
            out[tokens] = rows.mul_(weights[tokens].to(dtype).unsqueeze(-1)).sum(1)
        return out

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, None, Tensor | None]:
        y, slots, weights = ctx.saved_tensors
        needs_y, _, needs_weights = ctx.needs_input_grad
        (grad_out,) = grad_outputs
        dtype = accumulation_dtype(grad_out)
        grad_y = grad_out.new_empty(slots.numel(), grad_out.shape[1]) if needs_y else None
        grad_weights = torch.empty_like(weights) if needs_weights else None
        for tokens in _chunks(slots, grad_out.shape[1]):
            grad = grad_out[tokens].to(dtype).unsqueeze(1)
            if grad_y is not None:
                grad_y[slots[tokens]] = (grad * weights[tokens].to(dtype).unsqueeze(-1)).to(grad_y.dtype)
            if grad_weights is not None:
                grad_weights[tokens] = y[slots[tokens]].to(dtype).mul_(grad).sum(-1).to(weights.dtype)
        return grad_y, None, grad_weights


class _GroupedMatmul(torch.autograd.Function):
    """Every product is written where it belongs: no list of results is joined, forward or backward."""

    # Any: the context is torch's own
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        ctx.save_for_backward(x, weight)
        out = x.new_empty(len(x), weight.shape[2])
        for rows, matrix, into in zip(x.split(counts), weight, out.split(counts), strict=True):
            torch.mm(rows, matrix, out=into)
        return out

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, _ = ctx.needs_input_grad
        grads = grad_outputs[0].split(ctx.counts)
        grad_x = torch.empty_like(x) if needs_x else None
        grad_weight = torch.empty_like(weight) if needs_weight else None
        if grad_x is not None:
            for grad, matrix, into in zip(grads, weight, grad_x.split(ctx.counts), strict=True):
                torch.mm(grad, matrix.T, out=into)
        if grad_weight is not None:
            for grad, rows, into in zip(grads, x.split(ctx.counts), grad_weight, strict=True):
                torch.mm(rows.T, grad, out=into)
        return grad_x, grad_weight, None


def _chunks(slots: Tensor, width: int) -> Iterator[slice]:
    num_tokens, top_k = slots.shape
    step = max(1, CHUNK_VALUES // max(1, top_k * width))
    return (slice(start, start + step) for start in range(0, num_tokens, step))
