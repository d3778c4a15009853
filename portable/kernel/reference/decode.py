"""Attention of one new token a row to a cache of keys and values.

Shapes: B rows, S cached positions, P pages, C positions a page, M pages a row, N query heads, K key-value
heads, H head_dim.
"""

import torch
from torch import Tensor

from portable.core.errors import ShapeError
from portable.kernel.reference.attention import attend, check_heads, check_span, heads_divide


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
    """Attend with one new token a row to the first ``lengths_B`` positions of its cache, its own included.

    The token stands at the last of them; ``window``, ``sink_N`` and ``scale`` are those of ``attention``.
    What the cache holds beyond a row's length does not matter as long as it is finite (allocate caches
    zeroed); a row of length 0 gives zeros.

    Shapes: lengths_B (B,) from 0 to S; returns (B, N, H). Dtype: that of q; softmax and sums in float32.
    Raises: ShapeError if heads do not divide or shapes do not fit; ConfigError for a ``window`` below 1.
    Source: the last row of ``attention``.
    """
    check_decode(q_BNH, k_cache_BSKH, v_cache_BSKH, lengths_B, window, sink_N)
    positions = torch.arange(k_cache_BSKH.shape[1], device=q_BNH.device)
    visible_BS = positions < lengths_B[:, None]
    if window is not None:
        visible_BS = visible_BS & (positions >= lengths_B[:, None] - window)
    visible = visible_BS[:, None, None, None, :]
    out_B1NH, _ = attend(q_BNH.unsqueeze(1), k_cache_BSKH, v_cache_BSKH, visible, sink_N, scale)
    return out_B1NH.squeeze(1)


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
    """Compute ``decode_attention`` with a cache that lies in pages.

    Position s of row b lies in page ``block_table_BM[b, s // C]`` at s % C; rows may share pages. Entries of
    the table beyond a row's length are arbitrary, e.g. -1.

    Shapes: lengths_B (B,) from 0 to M * C; returns (B, N, H). Dtype: that of q; softmax and sums in float32.
    Raises: ShapeError if heads do not divide, shapes do not fit or there is no page; ConfigError for a
    ``window`` below 1.
    Source: Kwon et al. 2023, arXiv:2309.06180, section 4.1.
    """
    check_paged(q_BNH, k_pages_PCKH, v_pages_PCKH, block_table_BM, lengths_B, window, sink_N)
    pages_BM = block_table_BM.clamp(0, k_pages_PCKH.shape[0] - 1)
    k_BSKH, v_BSKH = (pages[pages_BM].flatten(1, 2) for pages in (k_pages_PCKH, v_pages_PCKH))
    return decode_attention(q_BNH, k_BSKH, v_BSKH, lengths_B, window=window, sink_N=sink_N, scale=scale)


def check_decode(
    q_BNH: Tensor,
    k_cache_BSKH: Tensor,
    v_cache_BSKH: Tensor,
    lengths_B: Tensor,
    window: int | None,
    sink_N: Tensor | None,
) -> None:
    """Raise ShapeError or ConfigError unless the arguments of ``decode_attention`` fit."""
    _check_rows("decode_attention", q_BNH, lengths_B)
    check_heads(q_BNH, k_cache_BSKH, v_cache_BSKH)
    check_span("decode_attention", q_BNH.shape[-2], window, sink_N)


def check_paged(
    q_BNH: Tensor,
    k_pages_PCKH: Tensor,
    v_pages_PCKH: Tensor,
    block_table_BM: Tensor,
    lengths_B: Tensor,
    window: int | None,
    sink_N: Tensor | None,
) -> None:
    """Raise ShapeError or ConfigError unless the arguments of ``paged_attention`` fit.

    The table's values are not looked at: that would stall the device.
    """
    _check_rows("paged_attention", q_BNH, lengths_B)
    pages = tuple(k_pages_PCKH.shape)
    if k_pages_PCKH.dim() != 4 or k_pages_PCKH.shape != v_pages_PCKH.shape or 0 in pages[:2]:
        raise ShapeError(
            f"paged_attention: pages of keys {pages} and of values {tuple(v_pages_PCKH.shape)} must both be "
            "(P, C, K, H), with at least one page of one position"
        )
    if not heads_divide(q_BNH, k_pages_PCKH):
        raise ShapeError(
            f"paged_attention: q {tuple(q_BNH.shape)} does not fit pages {pages}: it needs a multiple "
            "of their heads with the same head_dim"
        )
    if block_table_BM.dim() != 2 or block_table_BM.shape[0] != q_BNH.shape[0]:
        raise ShapeError(
            f"paged_attention: block_table {tuple(block_table_BM.shape)} must be (B, M), a list of pages for "
            f"each of the {q_BNH.shape[0]} rows"
        )
    check_span("paged_attention", q_BNH.shape[-2], window, sink_N)


def _check_rows(name: str, q_BNH: Tensor, lengths_B: Tensor) -> None:
    if q_BNH.dim() != 3 or lengths_B.shape != q_BNH.shape[:1]:
        raise ShapeError(
            f"{name}: q {tuple(q_BNH.shape)} and lengths {tuple(lengths_B.shape)} must be (B, N, H) and (B,)"
        )
