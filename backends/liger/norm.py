"""Liger's RMS norm. Its own autograd function may write into the incoming gradient; the functions below it do
not when told so, and here they are operators of torch's library, which fake tensors and compilers see."""

from typing import Any

import torch
from liger_kernel.ops.rms_norm import rms_norm_backward, rms_norm_forward
from liger_kernel.ops.utils import calculate_settings
from torch import Tensor

from portable.kernel.reference import norm as reference
from portable.kernel.reference.norm import check_weight

_NAMESPACE = "portable_liger"


def rms_norm(x_BTD: Tensor, weight_D: Tensor, eps: float = 1e-6) -> Tensor:
    """Compute ``rms_norm`` of the reference."""
    check_weight("rms_norm", x_BTD, weight_D)
    if x_BTD.numel() == 0:  # a launch of no programs is an error
        return reference.rms_norm(x_BTD, weight_D, eps)
    return _norm(x_BTD, weight_D, eps, 0.0, "llama")[0]


def rms_norm_one_plus_w(x_BTD: Tensor, weight_D: Tensor, eps: float = 1e-6) -> Tensor:
    """Compute ``rms_norm_one_plus_w`` of the reference."""
    check_weight("rms_norm_one_plus_w", x_BTD, weight_D)
    if x_BTD.numel() == 0:
        return reference.rms_norm_one_plus_w(x_BTD, weight_D, eps)
    return _norm(x_BTD, weight_D, eps, 1.0, "gemma")[0]


@torch.library.custom_op(f"{_NAMESPACE}::rms_norm", mutates_args=())
def _norm(x: Tensor, weight: Tensor, eps: float, offset: float, casting: str) -> tuple[Tensor, Tensor]:
    """Return y and 1 / rms of every row."""
    y, _, rstd, *_ = rms_norm_forward(x.contiguous(), weight.contiguous(), eps, offset, casting, None)
    return y, rstd


@_norm.register_fake
def _(x: Tensor, weight: Tensor, eps: float, offset: float, casting: str) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:-1].numel(), dtype=torch.float32)


@torch.library.custom_op(f"{_NAMESPACE}::rms_norm_backward", mutates_args=())
def _norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, offset: float, casting: str
) -> tuple[Tensor, Tensor]:
    size = x.shape[-1]
    block, num_warps = calculate_settings(size)
    grad_x, grad_weight = rms_norm_backward(
        grad.contiguous(),
        x.contiguous().view(-1, size),
        weight.contiguous(),
        rstd,
        offset,
        casting,
        block,
        num_warps,
        False,  # do not write into grad
        None,
        needs_dw=True,
    )
    return grad_x.view(x.shape), grad_weight


@_norm_backward.register_fake
def _(
    grad: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, offset: float, casting: str
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


# Any: the context is torch's own
def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _, ctx.offset, ctx.casting = inputs
    ctx.save_for_backward(x, weight, output[1])
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    return *_norm_backward(grad, *ctx.saved_tensors, ctx.offset, ctx.casting), None, None, None


_norm.register_autograd(_gradients, setup_context=_keep)
