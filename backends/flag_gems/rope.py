"""FlagGems' rotary embedding, which turns whole heads and has no backward pass: that is the opposite turn.

Shapes: B rows, T tokens, N query heads, K key heads, H head_dim, R rotated dims, all of them here.
"""

from typing import Any

import torch
from flag_gems.fused import apply_rotary_pos_emb
from torch import Tensor

from portable.kernel.reference import rope as reference
from portable.kernel.reference.rope import check_tables

_NAMESPACE = "portable_flag_gems"


def rope_half(q_BTNH: Tensor, k_BTKH: Tensor, cos_BTR: Tensor, sin_BTR: Tensor) -> tuple[Tensor, Tensor]:
    """Compute ``rope_half`` of the reference, to which heads that turn in part are left."""
    check_tables("rope_half", q_BTNH, k_BTKH, cos_BTR, sin_BTR)
    if not _takes(q_BTNH, k_BTKH, cos_BTR):
        return reference.rope_half(q_BTNH, k_BTKH, cos_BTR, sin_BTR)
    half = cos_BTR.shape[-1] // 2
    return _turn(q_BTNH, k_BTKH, cos_BTR[..., :half].detach(), sin_BTR[..., :half].detach(), False)


def rope_interleave(
    q_BTNH: Tensor, k_BTKH: Tensor, cos_BTR: Tensor, sin_BTR: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute ``rope_interleave`` of the reference, to which heads that turn in part are left."""
    check_tables("rope_interleave", q_BTNH, k_BTKH, cos_BTR, sin_BTR)
    if not _takes(q_BTNH, k_BTKH, cos_BTR):
        return reference.rope_interleave(q_BTNH, k_BTKH, cos_BTR, sin_BTR)
    return _turn(q_BTNH, k_BTKH, cos_BTR[..., ::2].detach(), sin_BTR[..., ::2].detach(), True)


def _takes(q: Tensor, k: Tensor, cos: Tensor) -> bool:
    """Return whether whole heads turn, and there are some."""
    return cos.shape[-1] == q.shape[-1] and q.numel() > 0 and k.numel() > 0


@torch.library.custom_op(f"{_NAMESPACE}::rope", mutates_args=())
def _turn(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> tuple[Tensor, Tensor]:
    """Turn by the tables (B, T, R / 2): a line for every token, which is its position in them."""
    positions = torch.arange(q.shape[0] * q.shape[1], device=q.device).view(q.shape[:2])
    # Its check wants a stride of 1 also where there is one number; contiguous() leaves such a tensor alone.
    lines = (table.flatten(0, 1).clone(memory_format=torch.contiguous_format) for table in (cos, sin))
    turned_q, turned_k = apply_rotary_pos_emb(
        q.contiguous(), k.contiguous(), *lines, position_ids=positions, rotary_interleaved=interleaved
    )
    return turned_q, turned_k


@_turn.register_fake
def _(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape)


# Any: the context is torch's own
def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, _, cos, sin, ctx.interleaved = inputs
    ctx.save_for_backward(cos, sin)


def _gradients(ctx: Any, grad_q: Tensor, grad_k: Tensor) -> tuple[Tensor | None, ...]:
    cos, sin = ctx.saved_tensors
    return *_turn(grad_q, grad_k, cos, -sin, ctx.interleaved), None, None, None


_turn.register_autograd(_gradients, setup_context=_keep)
