"""A linear layer with a low-rank update, in the fewest matmuls and without a copy of its output.

Shapes: I in, O out, R rank, N rows.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from portable.kernel.reference.lora import check_matrices
from portable.kernel.reference.precision import linear_dtype, matmul_operands


def lora_linear(
    x: Tensor,
    weight_OI: Tensor,
    lora_a_RI: Tensor,
    lora_b_OR: Tensor,
    *,
    scale: float,
    bias_O: Tensor | None = None,
) -> Tensor:
    """Compute ``lora_linear`` of the reference."""
    check_matrices(x, weight_OI, lora_a_RI, lora_b_OR, bias_O)
    inputs, weight, a, b = matmul_operands(x, weight_OI, lora_a_RI, lora_b_OR)
    bias = None if bias_O is None else bias_O.to(inputs.dtype)
    rows = inputs.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    out: Tensor = _LoraLinear.apply(rows, weight, a, b, bias, scale)
    return out.view(*x.shape[:-1], weight.shape[0]).to(linear_dtype(x))


class _LoraLinear(torch.autograd.Function):
    """Keeps x, and x A^T, which is R wide; the update is added where the layer's output lies."""

    # Any: the context is torch's own
    @staticmethod
    def forward(
        ctx: Any, x_NI: Tensor, weight: Tensor, a: Tensor, b: Tensor, bias: Tensor | None, scale: float
    ) -> Tensor:
        low_NR = F.linear(x_NI, a)
        ctx.scale = scale
        ctx.save_for_backward(x_NI, weight, a, b, low_NR)
        return F.linear(x_NI, weight, bias).addmm_(low_NR, b.T, alpha=scale)

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (grad_NO,) = grad_outputs
        x_NI, weight, a, b, low_NR = ctx.saved_tensors
        needs_x, needs_weight, needs_a, needs_b, needs_bias, _ = ctx.needs_input_grad
        grad_low_NR = (grad_NO @ b).mul_(ctx.scale) if needs_x or needs_a else grad_NO
        return (
            (grad_NO @ weight).addmm_(grad_low_NR, a) if needs_x else None,
            grad_NO.T @ x_NI if needs_weight else None,
            grad_low_NR.T @ x_NI if needs_a else None,
            (grad_NO.T @ low_NR).mul_(ctx.scale) if needs_b else None,
            grad_NO.sum(0) if needs_bias else None,
            None,
        )
