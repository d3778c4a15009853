"""Rotary position embedding by the NPU's fused operator.

Shapes: B rows, T tokens, N heads, H head_dim, R rotated dims.
Limits: R even and below 896; fewer than 1000 heads.
Source: torch_npu 2.13.0, documentation of ``npu_rotary_mul``. For pairs of neighbours it takes one table for
the whole batch only, and in both modes fewer than 1000 rows; so all rows go in as one long row.
"""

from __future__ import annotations

from typing import Any

import torch
import torch_npu
from torch import Tensor
from torch.autograd.function import once_differentiable

from portable.kernel.reference import rope as reference


def rope_half(q_BTNH: Tensor, k_BTKH: Tensor, cos_BTR: Tensor, sin_BTR: Tensor) -> tuple[Tensor, Tensor]:
    """Compute ``rope_half`` of the reference."""
    reference.check_tables("rope_half", q_BTNH, k_BTKH, cos_BTR, sin_BTR)
    return _turn(q_BTNH, cos_BTR, sin_BTR, "half"), _turn(k_BTKH, cos_BTR, sin_BTR, "half")


def rope_interleave(
    q_BTNH: Tensor, k_BTKH: Tensor, cos_BTR: Tensor, sin_BTR: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute ``rope_interleave`` of the reference."""
    reference.check_tables("rope_interleave", q_BTNH, k_BTKH, cos_BTR, sin_BTR)
    return _turn(q_BTNH, cos_BTR, sin_BTR, "interleave"), _turn(k_BTKH, cos_BTR, sin_BTR, "interleave")


def _turn(x_BTNH: Tensor, cos_BTR: Tensor, sin_BTR: Tensor, mode: str) -> Tensor:
    rotary_dim = cos_BTR.shape[-1]
    turning, passing = x_BTNH[..., :rotary_dim], x_BTNH[..., rotary_dim:]
    if turning.numel():
        turning = _Turn.apply(turning, cos_BTR.detach(), sin_BTR.detach(), mode)
    return torch.cat((turning, passing), dim=-1) if passing.shape[-1] else turning


class _Turn(torch.autograd.Function):
    """A rotation. Its gradient is turned back by the same angles, so nothing of x is kept."""

    # Any: the context is torch's own
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, mode: str) -> Tensor:
        ctx.mode = mode
        ctx.save_for_backward(cos, sin)
        return _rotary_mul(x, cos, sin, mode)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotary_mul(dy, cos, -sin, ctx.mode), None, None, None


def _rotary_mul(x_BTNR: Tensor, cos_BTR: Tensor, sin_BTR: Tensor, mode: str) -> Tensor:
    """Turn in the widest format of the three, which the operator wants to be one: angles are not rounded."""
    dtype = torch.promote_types(torch.promote_types(x_BTNR.dtype, cos_BTR.dtype), sin_BTR.dtype)
    x = x_BTNR.to(dtype).flatten(0, 1).unsqueeze(0).contiguous()
    cos, sin = (table.to(dtype).flatten(0, 1)[None, :, None].contiguous() for table in (cos_BTR, sin_BTR))
    return torch_npu.npu_rotary_mul(x, cos, sin, rotary_mode=mode).to(x_BTNR.dtype).view(x_BTNR.shape)
