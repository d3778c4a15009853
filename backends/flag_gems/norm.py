"""FlagGems' RMS norm. It gives the weight's gradient in the format of x: here both have the wider one."""

from typing import Any

import torch
from flag_gems.ops import rms_norm_backward, rms_norm_forward
from torch import Tensor

from portable.kernel.reference import norm as reference
from portable.kernel.reference.norm import check_weight

_NAMESPACE = "portable_flag_gems"


def rms_norm(x_BTD: Tensor, weight_D: Tensor, eps: float = 1e-6) -> Tensor:
    """Compute ``rms_norm`` of the reference."""
    check_weight("rms_norm", x_BTD, weight_D)
    if x_BTD.numel() == 0:  # a launch of no programs is an error
        return reference.rms_norm(x_BTD, weight_D, eps)
    dtype = torch.promote_types(x_BTD.dtype, weight_D.dtype)
    y, _ = _norm(x_BTD.to(dtype), weight_D.to(dtype), eps)
    return y.to(x_BTD.dtype)


@torch.library.custom_op(f"{_NAMESPACE}::rms_norm", mutates_args=())
def _norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return y and 1 / rms of every row."""
    y, rstd = rms_norm_forward(x.contiguous(), list(weight.shape), weight, eps)
    return y, rstd


@_norm.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:-1].numel(), dtype=torch.float32)


@torch.library.custom_op(f"{_NAMESPACE}::rms_norm_backward", mutates_args=())
def _norm_backward(
    grad: Tensor, x: Tensor, rstd: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    grad_x, grad_weight = rms_norm_backward(
        grad.contiguous(), x.contiguous(), rstd, list(weight.shape), weight, eps
    )
    return grad_x, grad_weight


@_norm_backward.register_fake
def _(grad: Tensor, x: Tensor, rstd: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


# Any: the context is torch's own
def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, ctx.eps = inputs
    ctx.save_for_backward(x, output[1], weight)
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    return *_norm_backward(grad, *ctx.saved_tensors, ctx.eps), None


_norm.register_autograd(_gradients, setup_context=_keep)
