"""Root mean square normalisation in C++: one walk over the rows forward, one backward.

Shapes: B rows, T tokens, D hidden (any leading dims will do).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from backends.cpu.kernel.library import load_native, takes, wants_gradient
from portable.kernel.reference import norm as reference

_native = load_native()
_forward = _native.rms_norm.default
_backward = _native.rms_norm_backward.default
_add_forward = _native.add_rms_norm.default


def rms_norm(x_BTD: Tensor, weight_D: Tensor, eps: float = 1e-6) -> Tensor:
    """Compute ``rms_norm`` of the reference."""
    if not takes(x_BTD, weight_D):
        return reference.rms_norm(x_BTD, weight_D, eps)
    reference.check_weight("rms_norm", x_BTD, weight_D)
    return _rms_norm(x_BTD, weight_D, eps, False)


def rms_norm_one_plus_w(x_BTD: Tensor, weight_D: Tensor, eps: float = 1e-6) -> Tensor:
    """Compute ``rms_norm_one_plus_w`` of the reference."""
    if not takes(x_BTD, weight_D):
        return reference.rms_norm_one_plus_w(x_BTD, weight_D, eps)
    reference.check_weight("rms_norm_one_plus_w", x_BTD, weight_D)
    return _rms_norm(x_BTD, weight_D, eps, True)


def add_rms_norm(
    x_BTD: Tensor, residual_BTD: Tensor, weight_D: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """Compute ``add_rms_norm`` of the reference; of two formats the sum is torch's."""
    if not takes(x_BTD, residual_BTD, weight_D):
        return reference.add_rms_norm(x_BTD, residual_BTD, weight_D, eps)
    reference.check_residual("add_rms_norm", x_BTD, residual_BTD)
    reference.check_weight("add_rms_norm", x_BTD, weight_D)
    if x_BTD.dtype == residual_BTD.dtype:
        return _AddRmsNorm.apply(x_BTD, residual_BTD, weight_D, eps)
    sum_BTD = x_BTD + residual_BTD
    return _rms_norm(sum_BTD, weight_D, eps, False), sum_BTD


def _rms_norm(x: Tensor, weight: Tensor, eps: float, plus_one: bool) -> Tensor:
    if wants_gradient(x, weight):
        return _RmsNorm.apply(x, weight, eps, plus_one)
    return _forward(_rows(x), weight.float().contiguous(), eps, plus_one)[0].view(x.shape)


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1]).contiguous()


class _RmsNorm(torch.autograd.Function):
    """Keeps x and 1 / rms."""

    # Any: the context is torch's own
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, plus_one: bool) -> Tensor:
        y, inverse = _forward(_rows(x), weight.float().contiguous(), eps, plus_one)
        ctx.save_for_backward(x, weight, inverse)
        ctx.plus_one = plus_one
        return y.view(x.shape)

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, inverse = ctx.saved_tensors
        dx, dw = _gradients(grads[0], x, weight, inverse, None, ctx.plus_one)
        return dx, dw, None, None


class _AddRmsNorm(torch.autograd.Function):
    """Keeps the sum and 1 / rms; the sum's own gradient joins in the same walk."""

    # Any: the context is torch's own
    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        y, total, inverse = _add_forward(_rows(x), _rows(residual), weight.float().contiguous(), eps)
        total = total.view(x.shape)
        ctx.save_for_backward(total, weight, inverse)
        ctx.set_materialize_grads(False)
        return y.view(x.shape), total

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        total, weight, inverse = ctx.saved_tensors
        grad, grad_sum = grads
        if grad is None:
            return grad_sum, grad_sum, None, None
        dx, dw = _gradients(grad, total, weight, inverse, grad_sum, False)
        return dx, dx, dw, None


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, grad_sum: Tensor | None, plus_one: bool
) -> tuple[Tensor, Tensor]:
    extra = None if grad_sum is None else _rows(grad_sum)
    dx, dw = _backward(_rows(grad), _rows(x), weight.float().contiguous(), inverse, extra, plus_one)
    return dx.view(x.shape), dw.to(weight.dtype)
