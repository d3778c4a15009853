"""Attention through torch's fused CPU kernel (``scaled_dot_product_attention``), segment by segment.

Shapes: B rows, T tokens a row, S cached positions, L tokens a segment, N query heads, K key-value heads,
H head_dim.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from portable.kernel.reference.attention import check_heads, segment_lengths


def attention(
    q_BTNH: Tensor,
    k_BTKH: Tensor,
    v_BTKH: Tensor,
    *,
    cu_seqlens: Tensor | None = None,
    causal: bool = True,
    scale: float | None = None,
) -> Tensor:
    """Compute ``attention`` of the reference.

    Segments of one length share a call, for which the tokens are sorted by it. Where most lengths differ that
    would gain nothing, and each segment has a call of its own. Measured: see README.md beside this file.
    """
    check_heads(q_BTNH, k_BTKH, v_BTKH)
    if cu_seqlens is None:
        return _sdpa([q_BTNH, k_BTKH, v_BTKH], causal, scale)
    shape = q_BTNH.shape
    lengths = [length for length in segment_lengths(cu_seqlens, shape[0] * shape[1]) if length]
    if not lengths:
        return torch.zeros_like(q_BTNH)
    flat = [x.flatten(0, 1) for x in (q_BTNH, k_BTKH, v_BTKH)]
    num_lengths = len(set(lengths))
    if num_lengths == 1:
        return _sdpa([x.unflatten(0, (-1, lengths[0])) for x in flat], causal, scale).reshape(shape)
    if 2 * num_lengths > len(lengths):
        return _attend_parts(flat, lengths, lengths, causal, scale).view(shape)
    groups = _group_by_length(lengths, q_BTNH.device)
    order = torch.cat(list(groups.values()))
    sizes = [index.numel() for index in groups.values()]
    out = _attend_parts([x.index_select(0, order) for x in flat], sizes, list(groups), causal, scale)
    back = torch.empty_like(order)
    back[order] = torch.arange(order.numel(), device=order.device)
    return out.index_select(0, back).view(shape)


def decode_attention(q_BNH: Tensor, k_cache_BSKH: Tensor, v_cache_BSKH: Tensor, lengths_B: Tensor) -> Tensor:
    """Compute ``decode_attention`` of the reference, reading no further than the longest row."""
    check_heads(q_BNH, k_cache_BSKH, v_cache_BSKH)
    longest = int(lengths_B.max())
    if longest == 0:
        return torch.zeros_like(q_BNH)
    inside_BS = torch.arange(longest, device=q_BNH.device) < lengths_B[:, None]
    k_BKSH, v_BKSH = (x[:, :longest].transpose(1, 2) for x in (k_cache_BSKH, v_cache_BSKH))
    out_BN1H = F.scaled_dot_product_attention(
        q_BNH.unsqueeze(2), k_BKSH, v_BKSH, attn_mask=inside_BS[:, None, None, :], enable_gqa=True
    )
    return out_BN1H.squeeze(2)


def _sdpa(qkv: Sequence[Tensor], causal: bool, scale: float | None) -> Tensor:
    """Attend within each row of (rows, L, heads, H) queries, keys and values."""
    q, k, v = (x.transpose(1, 2) for x in qkv)
    out = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=True)
    return out.transpose(1, 2)


def _attend_parts(
    flat: Sequence[Tensor], sizes: list[int], lengths: list[int], causal: bool, scale: float | None
) -> Tensor:
    """Cut the tokens into parts of ``sizes``, each of segments of one length, and attend in each."""
    parts = zip(*(x.split(sizes) for x in flat), strict=True)
    outs = [
        _sdpa([x.unflatten(0, (-1, length)) for x in part], causal, scale).flatten(0, 1)
        for length, part in zip(lengths, parts, strict=True)
    ]
    return torch.cat(outs)


def _group_by_length(lengths: list[int], device: torch.device) -> dict[int, Tensor]:
    """Return for each length, in order of first appearance, the indices of its segments' tokens."""
    starts: dict[int, list[int]] = {}
    position = 0
    for length in lengths:
        starts.setdefault(length, []).append(position)
        position += length
    return {
        length: (torch.tensor(first)[:, None] + torch.arange(length)).flatten().to(device)
        for length, first in starts.items()
    }
