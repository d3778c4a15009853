"""Rotary position embedding of q and k in one launch; the gradient is the rotation by the opposite angle.

Shapes: B rows, T tokens, N query heads, K key heads, H head_dim, R rotated dims, P = R / 2 pairs.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from backends.triton.launch import NAMESPACE, launch
from backends.triton.tuning import row_tile
from portable.kernel.reference.rope import check_tables


def rope_half(q_BTNH: Tensor, k_BTKH: Tensor, cos_BTR: Tensor, sin_BTR: Tensor) -> tuple[Tensor, Tensor]:
    """Compute ``rope_half`` of the reference."""
    check_tables("rope_half", q_BTNH, k_BTKH, cos_BTR, sin_BTR)
    return _rope(q_BTNH, k_BTKH, cos_BTR.detach(), sin_BTR.detach(), False, 1.0)


def rope_interleave(
    q_BTNH: Tensor, k_BTKH: Tensor, cos_BTR: Tensor, sin_BTR: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute ``rope_interleave`` of the reference."""
    check_tables("rope_interleave", q_BTNH, k_BTKH, cos_BTR, sin_BTR)
    return _rope(q_BTNH, k_BTKH, cos_BTR.detach(), sin_BTR.detach(), True, 1.0)


@torch.library.custom_op(f"{NAMESPACE}::rope", mutates_args=())
def _rope(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, sign: float
) -> tuple[Tensor, Tensor]:
    """Turn q and k by the tables' angles times ``sign``, 1 or -1."""
    cos, sin = cos.contiguous(), sin.contiguous()
    turned_q, turned_k = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k))
    num_tokens, num_q, num_k = q.shape[0] * q.shape[1], q.shape[2], k.shape[2]
    head_dim, rotary_dim = q.shape[-1], cos.shape[-1]
    width = max(rotary_dim // 2, head_dim - rotary_dim)
    tile = row_tile(width, q.device)
    heads = min(tile.m, triton.next_power_of_2(max(num_q + num_k, 1)))
    launch(
        _rope_kernel,
        (num_tokens, triton.cdiv(num_q + num_k, heads)),
        q,
        q.contiguous(),
        k.contiguous(),
        cos,
        sin,
        turned_q,
        turned_k,
        num_q,
        num_k,
        head_dim,
        sign,
        ROTARY=rotary_dim,
        HEADS=heads,
        WIDTH=tile.n,
        PASSES=rotary_dim < head_dim,
        INTERLEAVED=interleaved,
        **tile.options,
    )
    return turned_q, turned_k


@_rope.register_fake
def _(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, sign: float
) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape)


# Any: the context is torch's own
def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, _, cos, sin, ctx.interleaved, ctx.sign = inputs
    ctx.save_for_backward(cos, sin)


def _gradients(ctx: Any, grad_q: Tensor, grad_k: Tensor) -> tuple[Tensor | None, ...]:
    return *_rope(grad_q, grad_k, *ctx.saved_tensors, ctx.interleaved, -ctx.sign), None, None, None, None


_rope.register_autograd(_gradients, setup_context=_keep)


@triton.jit
def _rope_kernel(
    q_ptr: tl.tensor,
    k_ptr: tl.tensor,
    cos_ptr: tl.tensor,
    sin_ptr: tl.tensor,
    turned_q_ptr: tl.tensor,
    turned_k_ptr: tl.tensor,
    num_q: int,
    num_k: int,
    head_dim: int,
    sign: float,
    ROTARY: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    PASSES: tl.constexpr,
    INTERLEAVED: tl.constexpr,
) -> None:
    """One token and ``HEADS`` of its heads, q's before k's."""
    token = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    pairs = tl.arange(0, WIDTH)
    if INTERLEAVED:
        first = 2 * pairs
        second = first + 1
    else:
        first = pairs
        second = first + ROTARY // 2
    in_table = 2 * pairs < ROTARY
    cos = tl.load(cos_ptr + token * ROTARY + first, mask=in_table, other=0.0).to(tl.float32)[None, :]
    sin = sign * tl.load(sin_ptr + token * ROTARY + first, mask=in_table, other=0.0).to(tl.float32)[None, :]
    _turn(
        q_ptr, turned_q_ptr, token * num_q + heads, heads < num_q,
        head_dim, first, second, pairs, in_table, cos, sin, ROTARY, PASSES,
    )  # fmt: skip
    _turn(
        k_ptr, turned_k_ptr, token * num_k + heads - num_q, (heads >= num_q) & (heads < num_q + num_k),
        head_dim, first, second, pairs, in_table, cos, sin, ROTARY, PASSES,
    )  # fmt: skip


@triton.jit
def _turn(
    x_ptr: tl.tensor,
    y_ptr: tl.tensor,
    vectors: tl.tensor,
    wanted: tl.tensor,
    head_dim: int,
    first: tl.tensor,
    second: tl.tensor,
    pairs: tl.tensor,
    in_table: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    ROTARY: tl.constexpr,
    PASSES: tl.constexpr,
) -> None:
    starts = (vectors * head_dim)[:, None]
    inside = wanted[:, None] & in_table[None, :]
    a = tl.load(x_ptr + starts + first[None, :], mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x_ptr + starts + second[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(y_ptr + starts + first[None, :], (a * cos - b * sin).to(y_ptr.dtype.element_ty), mask=inside)
    tl.store(y_ptr + starts + second[None, :], (b * cos + a * sin).to(y_ptr.dtype.element_ty), mask=inside)
    if PASSES:
        dims = ROTARY + pairs
        inside = wanted[:, None] & (dims < head_dim)[None, :]
        rest = tl.load(x_ptr + starts + dims[None, :], mask=inside, other=0.0)
        tl.store(y_ptr + starts + dims[None, :], rest, mask=inside)
