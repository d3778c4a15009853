"""Liger's layer norm, whose kernels want a bias: without one they get zeros."""

from typing import Any

import torch
from liger_kernel.ops.layer_norm import layer_norm_backward, layer_norm_forward
from torch import Tensor

from portable.kernel.reference import norm as reference
from portable.kernel.reference.norm import check_weight

_NAMESPACE = "portable_liger"


def layer_norm(x_BTD: Tensor, weight_D: Tensor, bias_D: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """Compute ``layer_norm`` of the reference."""
    check_weight("layer_norm", x_BTD, weight_D, bias_D)
    if x_BTD.numel() == 0:  # a launch of no programs is an error
        return reference.layer_norm(x_BTD, weight_D, bias_D, eps)
    bias = torch.zeros_like(weight_D) if bias_D is None else bias_D
    return _norm(x_BTD, weight_D, bias, eps)[0]


@torch.library.custom_op(f"{_NAMESPACE}::layer_norm", mutates_args=())
def _norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, and the mean and 1 / standard deviation of every row."""
    y, _, mean, rstd, *_ = layer_norm_forward(x.contiguous(), weight.contiguous(), bias.contiguous(), eps)
    return y, mean, rstd


@_norm.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    mean, rstd = (x.new_empty(x.shape[:-1].numel(), dtype=torch.float32) for _ in range(2))
    return x.new_empty(x.shape), mean, rstd


@torch.library.custom_op(f"{_NAMESPACE}::layer_norm_backward", mutates_args=())
def _norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    flat = x.contiguous().view(-1, x.shape[-1])
    grad_x, grad_weight, grad_bias = layer_norm_backward(
        grad.contiguous(), flat, weight.contiguous(), bias.contiguous(), mean, rstd
    )
    return grad_x.view(x.shape), grad_weight, grad_bias


@_norm_backward.register_fake
def _(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), bias.new_empty(bias.shape)


# Any: the context is torch's own
def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, _ = inputs
    ctx.save_for_backward(x, weight, bias, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _gradients(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    return *_norm_backward(grad, *ctx.saved_tensors), None


_norm.register_autograd(_gradients, setup_context=_keep)
