"""RMS norm that keeps, for its backward pass, its input and one number a token.

The reference leaves that to autograd, which keeps every intermediate tensor.
Shapes: B rows, T tokens, D hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from portable.core.errors import ShapeError


def rms_norm(x_BTD: Tensor, weight_D: Tensor, eps: float = 1e-6) -> Tensor:
    """Scale every token vector to unit root mean square, then by ``weight_D``.

    Shapes, dtypes and errors are those of ``portable.kernel.reference.norm.rms_norm``.
    """
    if weight_D.shape != x_BTD.shape[-1:]:
        raise ShapeError(
            f"rms_norm: weight {tuple(weight_D.shape)} does not match x {tuple(x_BTD.shape)}; it needs (D,)"
        )
    return _RmsNorm.apply(x_BTD, weight_D, eps)


class _RmsNorm(torch.autograd.Function):
    """With r = 1 / sqrt(mean(x^2) + eps) and g = grad * weight, dx = r * (g - x * r^2 * mean(g * x))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:  # Any: torch's context
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, scale)
        return (weight * (wide * scale).to(x.dtype)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # Any: torch's context
        x, weight, scale = ctx.saved_tensors
        wide, wide_grad = x.float(), grad.float()
        inner = wide_grad * weight.float()
        grad_x = scale * (inner - wide * scale.square() * (inner * wide).mean(-1, keepdim=True))
        grad_weight = (wide_grad * wide * scale).reshape(-1, *weight.shape).sum(0)
        return grad_x.to(x.dtype), grad_weight.to(weight.dtype), None
