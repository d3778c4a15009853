"""Softmax attention, written out.

Memory is quadratic in the length of a segment: this is the meaning, not the fast path.

Shapes: B rows, T new tokens a row, S cached positions, N query heads, K key-value heads, G = N / K, H
head_dim.
"""

import itertools
import math

import torch
from torch import Tensor

from portable.core.errors import ShapeError
from portable.kernel.reference.precision import accumulation_dtype


def attention(
    q_BTNH: Tensor,
    k_BTKH: Tensor,
    v_BTKH: Tensor,
    *,
    cu_seqlens: Tensor | None = None,
    causal: bool = True,
    scale: float | None = None,
) -> Tensor:
    """Mix the values of each token's segment by softmax(q k^T * scale), query head n reading key-value head n
    // G.

    ``cu_seqlens`` (S + 1,) int32 bounds the segments over the flattened B * T tokens: segment i is the tokens
    ``cu_seqlens[i] .. cu_seqlens[i + 1] - 1``. Without it each row is one segment. Segments are never guessed
    from positions or padding. ``scale`` is 1 / sqrt(H) unless given.

    Shapes: returns (B, T, N, H). Dtype: that of q; softmax and sums in float32.
    Raises: ShapeError if heads do not divide or segments do not cover the tokens.
    Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 1; grouped heads: Ainslie et al. 2023,
    arXiv:2305.13245.
    """
    check_heads(q_BTNH, k_BTKH, v_BTKH)
    shape = q_BTNH.shape
    lengths = [shape[1]] if cu_seqlens is None else segment_lengths(cu_seqlens, shape[0] * shape[1])
    segments = (
        x.reshape(-1, sum(lengths), *x.shape[2:]).split(lengths, dim=1) for x in (q_BTNH, k_BTKH, v_BTKH)
    )
    mixed: list[Tensor] = []
    for q, k, v in zip(*segments, strict=True):
        allowed = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool, device=q.device)
        mixed.append(_attend(q, k, v, allowed.tril() if causal else allowed, scale))
    return torch.cat(mixed, dim=1).reshape(shape)


def decode_attention(q_BNH: Tensor, k_cache_BSKH: Tensor, v_cache_BSKH: Tensor, lengths_B: Tensor) -> Tensor:
    """Attend with one new token per row to the first ``lengths_B`` positions of its cache, its own included.

    What the cache holds beyond a row's length does not matter as long as it is finite (allocate caches
    zeroed); a row of length 0 gives zeros.

    Shapes: returns (B, N, H). Dtype: that of q; softmax and sums in float32.
    Raises: ShapeError if heads do not divide.
    Source: the last row of ``attention``.
    """
    check_heads(q_BNH, k_cache_BSKH, v_cache_BSKH)
    positions = torch.arange(k_cache_BSKH.shape[1], device=q_BNH.device)
    inside_BS = positions < lengths_B[:, None]
    allowed = inside_BS[:, None, None, None, :]
    return _attend(q_BNH.unsqueeze(1), k_cache_BSKH, v_cache_BSKH, allowed, None).squeeze(1)


def segment_lengths(cu_seqlens: Tensor, num_tokens: int) -> list[int]:
    """Return the lengths of the segments that ``cu_seqlens`` bounds.

    Raises: ShapeError if they do not start at 0, grow, and end at ``num_tokens``.
    """
    bounds: list[int] = cu_seqlens.tolist()
    lengths = [end - start for start, end in itertools.pairwise(bounds)]
    if not lengths or bounds[0] != 0 or bounds[-1] != num_tokens or min(lengths) < 0:
        raise ShapeError(
            f"attention: cu_seqlens {bounds[:8]}{' ...' if len(bounds) > 8 else ''} must rise from 0 to the "
            f"number of tokens, {num_tokens}"
        )
    return lengths


def check_heads(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ShapeError unless q's heads are a multiple of k's and v's, and head_dims agree."""
    if (
        k.shape != v.shape
        or q.shape[-1] != k.shape[-1]
        or q.shape[-2] % k.shape[-2]
        or q.shape[0] != k.shape[0]
    ):
        raise ShapeError(
            f"attention: q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)} do not fit: k and v need "
            "one shape, and q a multiple of their heads with the same head_dim"
        )


def _attend(q_BTNH: Tensor, k_BSKH: Tensor, v_BSKH: Tensor, allowed: Tensor, scale: float | None) -> Tensor:
    """Attend where ``allowed``, which must broadcast to (B, K, G, T, S)."""
    dtype = accumulation_dtype(q_BTNH)
    num_kv_heads = k_BSKH.shape[2]
    q_BTKGH = q_BTNH.to(dtype).unflatten(2, (num_kv_heads, -1))
    scores = torch.einsum("btkgh,bskh->bkgts", q_BTKGH, k_BSKH.to(dtype))
    scores = scores * (1 / math.sqrt(q_BTNH.shape[-1]) if scale is None else scale)
    weights = scores.masked_fill(~allowed, -math.inf).softmax(-1).masked_fill(~allowed, 0.0)
    return torch.einsum("bkgts,bskh->btkgh", weights, v_BSKH.to(dtype)).flatten(2, 3).to(q_BTNH.dtype)
