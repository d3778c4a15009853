"""Rotary position embedding in C++.

Shapes: B rows, T tokens, N query heads, K key heads, H head_dim, R rotated dims.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from backends.cpu.kernel.layout import dense
from backends.cpu.kernel.library import load_native, takes, wants_gradient
from portable.kernel.reference import rope as reference

_rotate = load_native().rope.default


def rope_half(q_BTNH: Tensor, k_BTKH: Tensor, cos_BTR: Tensor, sin_BTR: Tensor) -> tuple[Tensor, Tensor]:
    """Compute ``rope_half`` of the reference."""
    if not takes(q_BTNH, k_BTKH, cos_BTR, sin_BTR):
        return reference.rope_half(q_BTNH, k_BTKH, cos_BTR, sin_BTR)
    reference.check_tables("rope_half", q_BTNH, k_BTKH, cos_BTR, sin_BTR)
    return _turn(q_BTNH, k_BTKH, cos_BTR, sin_BTR, interleaved=False)


def rope_interleave(
    q_BTNH: Tensor, k_BTKH: Tensor, cos_BTR: Tensor, sin_BTR: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute ``rope_interleave`` of the reference."""
    if not takes(q_BTNH, k_BTKH, cos_BTR, sin_BTR):
        return reference.rope_interleave(q_BTNH, k_BTKH, cos_BTR, sin_BTR)
    reference.check_tables("rope_interleave", q_BTNH, k_BTKH, cos_BTR, sin_BTR)
    return _turn(q_BTNH, k_BTKH, cos_BTR, sin_BTR, interleaved=True)


def _turn(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> tuple[Tensor, Tensor]:
    cos, sin = (dense(table.detach().float()) for table in (cos, sin))
    if wants_gradient(q, k):
        return _Rope.apply(q, cos, sin, interleaved), _Rope.apply(k, cos, sin, interleaved)
    return _rotate(dense(q), cos, sin, interleaved, False), _rotate(dense(k), cos, sin, interleaved, False)


class _Rope(torch.autograd.Function):
    """Keeps the tables; the gradient turns back."""

    # Any: the context is torch's own
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.interleaved = interleaved
        return _rotate(dense(x), cos, sin, interleaved, False)

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        cos, sin = ctx.saved_tensors
        return _rotate(dense(grads[0]), cos, sin, ctx.interleaved, True), None, None, None
