"""FlagGems' silu and product, whose functions take any strides and give the wider format of their inputs."""

from typing import Any

import torch
from flag_gems.fused.silu_and_mul import silu_and_mul_grad_kernel, silu_and_mul_kernel
from torch import Tensor

from portable.kernel.reference import activation as reference
from portable.kernel.reference.activation import check_gate

_NAMESPACE = "portable_flag_gems"


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Compute ``swiglu`` of the reference."""
    check_gate("swiglu", gate, up)
    return _swiglu(gate, up) if gate.numel() else reference.swiglu(gate, up)


@torch.library.custom_op(f"{_NAMESPACE}::swiglu", mutates_args=())
def _swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return silu_and_mul_kernel(gate.contiguous(), up.contiguous())


@_swiglu.register_fake
def _(gate: Tensor, up: Tensor) -> Tensor:
    return gate.new_empty(gate.shape, dtype=torch.promote_types(gate.dtype, up.dtype))


@torch.library.custom_op(f"{_NAMESPACE}::swiglu_backward", mutates_args=())
def _swiglu_backward(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    grad_gate, grad_up = silu_and_mul_grad_kernel(gate.contiguous(), up.contiguous(), grad.contiguous())
    return grad_gate.to(gate.dtype), grad_up.to(up.dtype)


@_swiglu_backward.register_fake
def _(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    return gate.new_empty(gate.shape), up.new_empty(up.shape)


# Any: the context is torch's own
def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    return _swiglu_backward(grad, *ctx.saved_tensors)


_swiglu.register_autograd(_gradients, setup_context=_keep)
