"""The gated activation in C++: one walk over memory forward, one backward; only the inputs are kept."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from backends.cpu.kernel.library import load_native, takes, wants_gradient
from portable.kernel.reference import activation as reference

_native = load_native()
_forward = _native.swiglu.default
_backward = _native.swiglu_backward.default


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Compute ``swiglu`` of the reference; two formats are left to it."""
    if gate.dtype != up.dtype or not takes(gate, up):
        return reference.swiglu(gate, up)
    reference.check_gate("swiglu", gate, up)
    if wants_gradient(gate, up):
        return _SwiGlu.apply(gate, up)
    return _forward(gate.contiguous(), up.contiguous())


class _SwiGlu(torch.autograd.Function):
    """Keeps gate and up."""

    # Any: the context is torch's own
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return _forward(gate.contiguous(), up.contiguous())

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gate, up = ctx.saved_tensors
        return _backward(grads[0].contiguous(), gate.contiguous(), up.contiguous())
