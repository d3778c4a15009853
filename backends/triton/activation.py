"""Gated activations, forward and backward, element by element. Shapes: any, gate and up alike.

With a the activation: y = a(gate) up, d up = dy a(gate), d gate = dy up a'(gate). What a kernel reads again
in the backward pass is gate and up, never a(gate).
"""

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from backends.triton.launch import NAMESPACE, launch
from backends.triton.tuning import tile
from portable.kernel.reference.activation import check_gate

_SILU, _GELU_ERF, _GELU_TANH = range(3)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Compute ``swiglu`` of the reference."""
    check_gate("swiglu", gate, up)
    return _gated(gate, up, _SILU)


def geglu_erf(gate: Tensor, up: Tensor) -> Tensor:
    """Compute ``geglu_erf`` of the reference."""
    check_gate("geglu_erf", gate, up)
    return _gated(gate, up, _GELU_ERF)


def geglu_tanh(gate: Tensor, up: Tensor) -> Tensor:
    """Compute ``geglu_tanh`` of the reference."""
    check_gate("geglu_tanh", gate, up)
    return _gated(gate, up, _GELU_TANH)


@torch.library.custom_op(f"{NAMESPACE}::gated", mutates_args=())
def _gated(gate: Tensor, up: Tensor, kind: int) -> Tensor:
    y = torch.empty(gate.shape, dtype=torch.promote_types(gate.dtype, up.dtype), device=gate.device)
    _run(_forward_kernel, kind, gate.contiguous(), up.contiguous(), y)
    return y


@_gated.register_fake
def _(gate: Tensor, up: Tensor, kind: int) -> Tensor:
    return gate.new_empty(gate.shape, dtype=torch.promote_types(gate.dtype, up.dtype))


@torch.library.custom_op(f"{NAMESPACE}::gated_backward", mutates_args=())
def _gated_backward(grad: Tensor, gate: Tensor, up: Tensor, kind: int) -> tuple[Tensor, Tensor]:
    grad_gate, grad_up = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (gate, up))
    _run(_backward_kernel, kind, grad.contiguous(), gate.contiguous(), up.contiguous(), grad_gate, grad_up)
    return grad_gate, grad_up


@_gated_backward.register_fake
def _(grad: Tensor, gate: Tensor, up: Tensor, kind: int) -> tuple[Tensor, Tensor]:
    return gate.new_empty(gate.shape), up.new_empty(up.shape)


# Any: the context is torch's own
def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    gate, up, ctx.kind = inputs
    ctx.save_for_backward(gate, up)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_gated_backward(grad, *ctx.saved_tensors, ctx.kind), None


_gated.register_autograd(_gradients, setup_context=_keep)


def _run(kernel: Callable[..., Any], kind: int, *tensors: Tensor) -> None:
    size = tensors[0].numel()
    config = tile("elementwise", tensors[0].device)
    grid = (triton.cdiv(size, config.n),)
    launch(kernel, grid, tensors[0], *tensors, size, KIND=kind, BLOCK=config.n, **config.options)


@triton.jit
def _forward_kernel(
    gate_ptr: tl.tensor,
    up_ptr: tl.tensor,
    y_ptr: tl.tensor,
    size: tl.tensor,
    KIND: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    gate = tl.load(gate_ptr + at, mask=inside, other=0.0)
    up = tl.load(up_ptr + at, mask=inside, other=0.0).to(tl.float32)
    active, _ = _activate(gate.to(tl.float32), KIND)
    y = active.to(gate.dtype).to(tl.float32) * up
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _backward_kernel(
    grad_ptr: tl.tensor,
    gate_ptr: tl.tensor,
    up_ptr: tl.tensor,
    grad_gate_ptr: tl.tensor,
    grad_up_ptr: tl.tensor,
    size: tl.tensor,
    KIND: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    grad = tl.load(grad_ptr + at, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + at, mask=inside, other=0.0)
    up = tl.load(up_ptr + at, mask=inside, other=0.0).to(tl.float32)
    active, slope = _activate(gate.to(tl.float32), KIND)
    grad_up = grad * active.to(gate.dtype).to(tl.float32)
    tl.store(grad_up_ptr + at, grad_up.to(grad_up_ptr.dtype.element_ty), mask=inside)
    tl.store(grad_gate_ptr + at, (grad * up * slope).to(grad_gate_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _activate(x: tl.tensor, KIND: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Return the activation of ``x`` (0: silu, 1: gelu by erf, 2: gelu by tanh) and its slope there."""
    if KIND == 0:
        sigmoid = tl.sigmoid(x)
        active = x * sigmoid
        slope = sigmoid * (1.0 + x * (1.0 - sigmoid))
    elif KIND == 1:
        cdf = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))  # 1 / sqrt(2)
        active = x * cdf
        slope = cdf + x * tl.exp(-0.5 * x * x) * 0.3989422804014327  # 1 / sqrt(2 pi)
    else:
        # (1 + tanh(z)) / 2 is sigmoid(2 z). Beyond 30 it is 0 or 1 to the last bit, and powers of x may
        # overflow.
        near = tl.minimum(tl.maximum(x, -30.0), 30.0)
        cdf = tl.sigmoid(1.5957691216057308 * (near + 0.044715 * near * near * near))  # 2 sqrt(2 / pi)
        active = x * cdf
        slope = cdf + near * cdf * (1.0 - cdf) * 1.5957691216057308 * (1.0 + 0.134145 * near * near)
    return active, slope
