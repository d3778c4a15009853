"""Liger's gated activations. Its backward pass writes the gradients over gate and up: here, over copies."""

from collections.abc import Callable
from typing import Any

import torch
from liger_kernel.ops.geglu import geglu_backward, geglu_forward
from liger_kernel.ops.swiglu import swiglu_backward, swiglu_forward
from torch import Tensor

from portable.kernel.reference import activation as reference
from portable.kernel.reference.activation import check_gate

_NAMESPACE = "portable_liger"
# Any: Liger's functions are not annotated
_PASSES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "swiglu": (swiglu_forward, swiglu_backward),
    "geglu_tanh": (geglu_forward, geglu_backward),
}


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Compute ``swiglu`` of the reference."""
    check_gate("swiglu", gate, up)
    if gate.numel() == 0:  # a launch of no programs is an error
        return reference.swiglu(gate, up)
    return _gated(*_alike(gate, up), "swiglu")


def geglu_tanh(gate: Tensor, up: Tensor) -> Tensor:
    """Compute ``geglu_tanh`` of the reference."""
    check_gate("geglu_tanh", gate, up)
    if gate.numel() == 0:
        return reference.geglu_tanh(gate, up)
    return _gated(*_alike(gate, up), "geglu_tanh")


def _alike(gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in the wider of their formats, which is that of the result."""
    dtype = torch.promote_types(gate.dtype, up.dtype)
    return gate.to(dtype), up.to(dtype)


@torch.library.custom_op(f"{_NAMESPACE}::gated", mutates_args=())
def _gated(gate: Tensor, up: Tensor, kind: str) -> Tensor:
    _, _, y = _PASSES[kind][0](_rows(gate), _rows(up))
    return y.view(gate.shape)


@_gated.register_fake
def _(gate: Tensor, up: Tensor, kind: str) -> Tensor:
    return gate.new_empty(gate.shape)


@torch.library.custom_op(f"{_NAMESPACE}::gated_backward", mutates_args=())
def _gated_backward(grad: Tensor, gate: Tensor, up: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    copies = (_rows(x).clone() for x in (gate, up))
    grad_gate, grad_up = _PASSES[kind][1](*copies, _rows(grad))
    return grad_gate.view(gate.shape), grad_up.view(up.shape)


@_gated_backward.register_fake
def _(grad: Tensor, gate: Tensor, up: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    return gate.new_empty(gate.shape), up.new_empty(up.shape)


# Any: the context is torch's own
def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    gate, up, ctx.kind = inputs
    ctx.save_for_backward(gate, up)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_gated_backward(grad, *ctx.saved_tensors, ctx.kind), None


_gated.register_autograd(_gradients, setup_context=_keep)


def _rows(x: Tensor) -> Tensor:
    return x.contiguous().view(-1, x.shape[-1])
