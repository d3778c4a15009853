"""Attention by torch's ``scaled_dot_product_attention``, in the format of its operands.

Shapes: B rows, T new tokens a row, S keys a row or cached positions, t and s those of a segment, N query
heads, K key-value heads, G = N / K, H head_dim.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from portable.kernel.reference import attention as reference
from portable.kernel.reference import decode as reference_decode
from portable.kernel.reference.precision import without_autocast


def attention(
    q_BTNH: Tensor,
    k_BSKH: Tensor,
    v_BSKH: Tensor,
    *,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    causal: bool = True,
    align: str = "end",
    window: int | None = None,
    sink_N: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Compute ``attention`` of the reference: a call for each segment, or one for all if they are alike.

    A window or a sink, which the row's constraint refuses, is left to the reference.
    """
    if window is not None or sink_N is not None:
        return reference.attention(
            q_BTNH,
            k_BSKH,
            v_BSKH,
            cu_seqlens=cu_seqlens,
            cu_seqlens_k=cu_seqlens_k,
            causal=causal,
            align=align,
            window=window,
            sink_N=sink_N,
            scale=scale,
        )
    reference.check_attention(q_BTNH, k_BSKH, v_BSKH, align=align, window=window, sink_N=sink_N)
    segments = reference.pair_segments(q_BTNH, k_BSKH, cu_seqlens, cu_seqlens_k)
    to_end = align == "end"
    q, k, v = _alike(q_BTNH, k_BSKH, v_BSKH)
    with without_autocast(q_BTNH):
        if cu_seqlens is None:
            out = _attend_rows(q, k, v, causal, to_end, scale)
        elif len(set(segments)) == 1:
            rows = (len(segments), -1)
            flat = (x.flatten(0, 1).unflatten(0, rows) if x.numel() else x for x in (q, k, v))
            out = _attend_rows(*flat, causal, to_end, scale)
        else:
            sizes_q, sizes_k = zip(*segments, strict=True)
            flat = (x.flatten(0, 1).unsqueeze(0) for x in (q, k, v))
            parts = (x.split(sizes, 1) for x, sizes in zip(flat, (sizes_q, sizes_k, sizes_k), strict=True))
            outs = [_attend_rows(*part, causal, to_end, scale) for part in zip(*parts, strict=True)]
            out = torch.cat(outs, 1)
    return out.reshape(q_BTNH.shape).to(q_BTNH.dtype)


def _attend_rows(
    q_BTNH: Tensor, k_BSKH: Tensor, v_BSKH: Tensor, causal: bool, to_end: bool, scale: float | None
) -> Tensor:
    """Attend within each row. Torch's ``is_causal`` counts from the first query and the first key."""
    num_queries, num_keys = q_BTNH.shape[1], k_BSKH.shape[1]
    if not causal or (to_end and num_queries == 1):
        return _attend(q_BTNH, k_BSKH, v_BSKH, None, False, scale)
    if num_queries == num_keys or not to_end:
        return _attend(q_BTNH, k_BSKH, v_BSKH, None, True, scale)
    visible = reference.visible_pairs(
        num_queries, num_keys, causal=True, align="end", window=None, device=q_BTNH.device
    )
    return _attend(q_BTNH, k_BSKH, v_BSKH, visible[None, None], False, scale)


def _attend(
    q_BTNH: Tensor,
    k_BSKH: Tensor,
    v_BSKH: Tensor,
    visible: Tensor | None,
    is_causal: bool,
    scale: float | None,
) -> Tensor:
    """Return (B, T, N, H); ``visible`` broadcasts to (B, N, T, S).

    A query that sees nothing is shown everything, and what comes of it is put aside: torch would answer with
    not-a-number.
    """
    q, k, v = (x.transpose(1, 2) for x in (q_BTNH, k_BSKH, v_BSKH))
    if q.numel() == 0 or k.numel() == 0:
        # Zeros that are connected to all three.
        grouped = q.unflatten(1, (k.shape[1], -1)).flatten(2, 3)
        return (grouped @ k.mT @ v).view(q.shape).transpose(1, 2)
    blind: Tensor | None = None
    if visible is not None:
        blind = ~visible.any(-1, keepdim=True)
        visible = visible | blind
    grouped = k.shape[1] != q.shape[1]
    if grouped and (visible is not None or q.dtype == torch.float32):
        # Of torch's fused kernels only the one for 16 bits and no mask lets heads share keys.
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
        grouped = False
    out = scaled_dot_product_attention(
        q, k, v, attn_mask=visible, is_causal=is_causal, scale=scale, enable_gqa=grouped
    )
    return (out if blind is None else out.masked_fill(blind, 0.0)).transpose(1, 2)


@torch.no_grad()
def decode_attention(
    q_BNH: Tensor,
    k_cache_BSKH: Tensor,
    v_cache_BSKH: Tensor,
    lengths_B: Tensor,
    *,
    window: int | None = None,
    sink_N: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Compute ``decode_attention`` of the reference without gradients; a sink is left to the reference.

    The heads that share keys pose as queries: nothing is repeated for them. The whole cache is read, since
    the longest row is known to the device only, and asking would stall it.
    """
    if sink_N is not None:
        return reference_decode.decode_attention(
            q_BNH, k_cache_BSKH, v_cache_BSKH, lengths_B, window=window, sink_N=sink_N, scale=scale
        )
    reference_decode.check_decode(q_BNH, k_cache_BSKH, v_cache_BSKH, lengths_B, window, sink_N)
    positions = torch.arange(k_cache_BSKH.shape[1], device=q_BNH.device)
    visible_BS = positions < lengths_B[:, None]
    if window is not None:
        visible_BS = visible_BS & (positions >= lengths_B[:, None] - window)
    q, k, v = _alike(q_BNH, k_cache_BSKH, v_cache_BSKH)
    posing_BGKH = q.unflatten(1, (k.shape[2], -1)).transpose(1, 2)
    with without_autocast(q_BNH):
        out_BGKH = _attend(posing_BGKH, k, v, visible_BS[:, None, None, :], False, scale)
    return out_BGKH.transpose(1, 2).reshape(q_BNH.shape).to(q_BNH.dtype)


def _alike(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return all in one format, the widest of theirs."""
    dtype = tensors[0].dtype
    for x in tensors[1:]:
        dtype = torch.promote_types(dtype, x.dtype)
    return tuple(x.to(dtype) for x in tensors)
