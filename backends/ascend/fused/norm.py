"""Root mean square normalisation by the NPU's fused operators.

Shapes: rows of D numbers; leading dims are flattened, as the operators take 2 to 8 dims.
Dtype: the operators want the weight in the number format of x. Their gradient of the weight is float32, so
the backward pass is written out here: autograd would round it to the format in which the weight went in.
Source: torch_npu 2.13.0, documentation of ``npu_rms_norm`` and ``npu_gemma_rms_norm``; the meta kernels of
``npu_add_rms_norm`` and ``npu_rms_norm_backward``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch_npu
from torch import Tensor
from torch.autograd.function import once_differentiable

from portable.kernel.reference import norm as reference


def rms_norm(x_BTD: Tensor, weight_D: Tensor, eps: float = 1e-6) -> Tensor:
    """Compute ``rms_norm`` of the reference; the weight is applied before rounding, not after."""
    reference.check_weight("rms_norm", x_BTD, weight_D)
    if x_BTD.numel() == 0:
        return reference.rms_norm(x_BTD, weight_D, eps)
    return _Norm.apply(x_BTD, weight_D, eps, False)


def rms_norm_one_plus_w(x_BTD: Tensor, weight_D: Tensor, eps: float = 1e-6) -> Tensor:
    """Compute ``rms_norm_one_plus_w`` of the reference."""
    reference.check_weight("rms_norm_one_plus_w", x_BTD, weight_D)
    if x_BTD.numel() == 0:
        return reference.rms_norm_one_plus_w(x_BTD, weight_D, eps)
    return _Norm.apply(x_BTD, weight_D, eps, True)


def add_rms_norm(
    x_BTD: Tensor, residual_BTD: Tensor, weight_D: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """Compute ``add_rms_norm`` of the reference."""
    reference.check_residual("add_rms_norm", x_BTD, residual_BTD)
    reference.check_weight("add_rms_norm", x_BTD, weight_D)
    if x_BTD.numel() == 0:
        return reference.add_rms_norm(x_BTD, residual_BTD, weight_D, eps)
    return _AddNorm.apply(x_BTD, residual_BTD, weight_D, eps)


class _Norm(torch.autograd.Function):
    """x / rms(x) * gamma, with the weight or 1 + the weight as gamma."""

    # Any: the context is torch's own
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, one_plus: bool) -> Tensor:
        rows, gamma = _rows(x), weight.to(x.dtype).contiguous()
        if one_plus:
            y, rstd = torch_npu.npu_gemma_rms_norm(rows, gamma, eps)
        else:
            y, rstd = torch_npu.npu_rms_norm(rows, gamma, eps)
        ctx.one_plus = one_plus
        ctx.save_for_backward(rows, weight, rstd)
        return y.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None, None]:
        rows, weight, rstd = ctx.saved_tensors
        dx, d_weight = _gradients(dy, rows, 1 + weight.float() if ctx.one_plus else weight, rstd)
        return dx, d_weight.to(weight.dtype), None, None


class _AddNorm(torch.autograd.Function):
    """The sum of x and residual, and its norm."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(x.dtype, residual.dtype)
        gamma = weight.to(dtype).contiguous()
        y, rstd, total = torch_npu.npu_add_rms_norm(_rows(x.to(dtype)), _rows(residual.to(dtype)), gamma, eps)
        ctx.dtypes = x.dtype, residual.dtype
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(total, weight, rstd)
        return y.view(x.shape), total.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, d_total: Tensor | None) -> tuple[Tensor | None, ...]:
        total, weight, rstd = ctx.saved_tensors
        d_weight = None
        if dy is not None:
            d_sum, d_weight = _gradients(dy, total, weight, rstd)
            d_total = d_sum if d_total is None else d_sum + d_total
            d_weight = d_weight.to(weight.dtype)
        if d_total is None:
            return None, None, None, None
        return d_total.to(ctx.dtypes[0]), d_total.to(ctx.dtypes[1]), d_weight, None


def _gradients(dy: Tensor, rows: Tensor, gamma: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of x, in the shape of ``dy``, and of gamma, in float32."""
    gamma = gamma.to(rows.dtype).contiguous()
    dx, d_gamma = torch_npu.npu_rms_norm_backward(_rows(dy), rows, gamma, rstd)
    return dx.view(dy.shape), d_gamma


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1]).contiguous()
