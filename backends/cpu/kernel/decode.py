"""Attention of one new token a row to its cache, in C++: only the positions that count are read.

Shapes: B rows, S cached positions, P pages, C positions a page, M pages a row, N query heads, K key-value
heads, H head_dim. Not differentiable.
"""

import math

import torch
from torch import Tensor

from backends.cpu.kernel.layout import dense
from backends.cpu.kernel.library import load_native, takes
from portable.kernel.reference import decode as reference

_native = load_native()


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
    """Compute ``decode_attention`` of the reference: each row's cache is its one page."""
    if not takes(q_BNH, k_cache_BSKH, v_cache_BSKH):
        return reference.decode_attention(
            q_BNH, k_cache_BSKH, v_cache_BSKH, lengths_B, window=window, sink_N=sink_N, scale=scale
        )
    reference.check_decode(q_BNH, k_cache_BSKH, v_cache_BSKH, lengths_B, window, sink_N)
    table_B1 = torch.arange(q_BNH.shape[0], device=q_BNH.device).unsqueeze(1)
    return _attend(q_BNH, k_cache_BSKH, v_cache_BSKH, table_B1, lengths_B, window, sink_N, scale)


@torch.no_grad()
def paged_attention(
    q_BNH: Tensor,
    k_pages_PCKH: Tensor,
    v_pages_PCKH: Tensor,
    block_table_BM: Tensor,
    lengths_B: Tensor,
    *,
    window: int | None = None,
    sink_N: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Compute ``paged_attention`` of the reference."""
    if not takes(q_BNH, k_pages_PCKH, v_pages_PCKH):
        return reference.paged_attention(
            q_BNH,
            k_pages_PCKH,
            v_pages_PCKH,
            block_table_BM,
            lengths_B,
            window=window,
            sink_N=sink_N,
            scale=scale,
        )
    reference.check_paged(q_BNH, k_pages_PCKH, v_pages_PCKH, block_table_BM, lengths_B, window, sink_N)
    return _attend(q_BNH, k_pages_PCKH, v_pages_PCKH, block_table_BM, lengths_B, window, sink_N, scale)


def _attend(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    table: Tensor,
    lengths: Tensor,
    window: int | None,
    sink: Tensor | None,
    scale: float | None,
) -> Tensor:
    scaled = (q.float() * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)).contiguous()
    out = _native.paged_attention(
        scaled,
        dense(k_pages),
        dense(v_pages.to(k_pages.dtype)),
        table.long().contiguous(),
        lengths.long().contiguous(),
        window or 0,
        None if sink is None else sink.float().contiguous(),
    )
    return out.to(q.dtype)
