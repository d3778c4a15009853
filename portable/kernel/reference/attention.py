"""Softmax attention, written out.

Memory is quadratic in the length of a segment: this is the meaning, not the fast path.

Shapes: B rows, T new tokens a row, S keys a row, N query heads, K key-value heads, G = N / K, H head_dim.
"""

import itertools
import math

import torch
from torch import Tensor

from portable.core.errors import ConfigError, ShapeError
from portable.kernel.reference.precision import accumulation_dtype, without_autocast

ALIGNMENTS = ("end", "start")


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
    """Mix the values that each query sees by softmax(q k^T * scale), query head n reading key head n // G.

    ``cu_seqlens`` (segments + 1,) bounds the segments over the flattened B * T tokens: segment i is tokens
    ``cu_seqlens[i] .. cu_seqlens[i + 1] - 1``, and its queries see its keys only. ``cu_seqlens_k`` bounds
    those of the keys where they differ, over B * S. Without bounds each row is one segment. Segments are
    never guessed from positions or padding.

    In a segment of t queries and s keys, query i stands at position i + s - t if ``align`` is "end" (the last
    query at the last key, as with a cache), at i if it is "start". ``causal``: it sees the keys at or before
    its position; ``window``: only those less than ``window`` positions away. A query that sees nothing gives
    zeros.

    ``sink_N`` is one logit a head that joins the softmax's denominator and nothing else, so that a head can
    attend to nothing. ``scale`` is 1 / sqrt(H) unless given.

    Shapes: returns (B, T, N, H).
    Dtype: that of q; products, softmax and sums in float32, also under autocast.
    Raises: ShapeError if heads do not divide, if segments do not cover the tokens or differ in number, or if
    the sink is not (N,); ConfigError for a ``window`` below 1 or an unknown ``align``.
    Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 1; grouped heads: Ainslie et al. 2023,
    arXiv:2305.13245; window: Beltagy et al. 2020, arXiv:2004.05150, section 3.1; sink: the gpt-oss model
    card, OpenAI 2025, arXiv:2508.10925.
    """
    out_BTNH, _ = attention_with_lse(
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
    return out_BTNH


def attention_with_lse(
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
) -> tuple[Tensor, Tensor]:
    """Return ``attention`` and, for every query, the logarithm of its softmax's denominator.

    lse = log(sum over the keys seen of exp(q k * scale) + exp(sink)). With it, attentions to parts of the
    keys can be joined. Differentiable in both results.

    Shapes: returns (B, T, N, H) and lse_BTN (B, T, N), natural logarithm, -inf where nothing is seen.
    Dtype: the first in that of q; lse in float32.
    Raises: as ``attention``.
    Source: as ``attention``; joining parts: Milakov and Gimelshein 2018, arXiv:1805.02867, section 3.
    """
    check_attention(q_BTNH, k_BSKH, v_BSKH, align=align, window=window, sink_N=sink_N)
    segments = pair_segments(q_BTNH, k_BSKH, cu_seqlens, cu_seqlens_k)

    def attend_within(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        lengths = q.shape[1], k.shape[1]
        visible = visible_pairs(*lengths, causal=causal, align=align, window=window, device=q.device)
        return attend(q, k, v, visible, sink_N, scale)

    if cu_seqlens is None:
        return attend_within(q_BTNH, k_BSKH, v_BSKH)
    lengths_q, lengths_k = zip(*segments, strict=True)
    parts = zip(
        _flatten_rows(q_BTNH).split(lengths_q, dim=1),
        _flatten_rows(k_BSKH).split(lengths_k, dim=1),
        _flatten_rows(v_BSKH).split(lengths_k, dim=1),
        strict=True,
    )
    outs, lses = zip(*(attend_within(*part) for part in parts), strict=True)
    return torch.cat(outs, dim=1).reshape(q_BTNH.shape), torch.cat(lses, dim=1).reshape(q_BTNH.shape[:3])


def _flatten_rows(x: Tensor) -> Tensor:
    return x.flatten(0, 1).unsqueeze(0)


def attend(
    q_BTNH: Tensor,
    k_BSKH: Tensor,
    v_BSKH: Tensor,
    visible: Tensor,
    sink_N: Tensor | None,
    scale: float | None,
) -> tuple[Tensor, Tensor]:
    """Return the output and lse of queries that see the keys where ``visible``, which must broadcast to
    (B, K, G, T, S).

    With m the largest logit: out = sum of exp(l - m) v / total, lse = m + log(total), total = sum of
    exp(l - m).
    """
    dtype = accumulation_dtype(q_BTNH, k_BSKH, v_BSKH)
    heads = k_BSKH.shape[2], q_BTNH.shape[2] // k_BSKH.shape[2]  # (K, G)
    scale = 1 / math.sqrt(q_BTNH.shape[3]) if scale is None else scale
    q_BTKGH = (q_BTNH.to(dtype) * scale).unflatten(2, heads)
    sink_KG1 = None if sink_N is None else sink_N.to(dtype).view(*heads, 1)
    with without_autocast(q_BTNH):
        logits = torch.einsum("btkgh,bskh->bkgts", q_BTKGH, k_BSKH.to(dtype))
        logits.masked_fill_(~visible, -math.inf)
        peak = _peak(logits, sink_KG1)
        weights = (logits - peak.unsqueeze(-1)).exp_()
        mixed_BTNH = torch.einsum("bkgts,bskh->btkgh", weights, v_BSKH.to(dtype)).flatten(2, 3)
    total = weights.sum(-1)
    if sink_KG1 is not None:
        total = total + (sink_KG1 - peak).exp()
    blind = total == 0
    total = total.masked_fill(blind, 1.0)
    lse = (peak + total.log()).masked_fill(blind, -math.inf)
    total_BTN, lse_BTN = (x.permute(0, 3, 1, 2).flatten(2) for x in (total, lse))
    return (mixed_BTNH / total_BTN.unsqueeze(-1)).to(q_BTNH.dtype), lse_BTN


def _peak(logits_BKGTS: Tensor, sink_KG1: Tensor | None) -> Tensor:
    """Return the largest logit of each query, (B, K, G, T), as a constant: it keeps exponentials in range and
    cancels from every result. It is finite also where there is none."""
    logits = logits_BKGTS.detach()
    peak = logits.amax(-1) if logits.shape[-1] else logits.new_full(logits.shape[:-1], -math.inf)
    if sink_KG1 is not None:
        peak = peak.maximum(sink_KG1.detach())
    return peak.clamp(min=torch.finfo(peak.dtype).min)


def visible_pairs(
    num_queries: int,
    num_keys: int,
    *,
    causal: bool,
    align: str,
    window: int | None,
    device: torch.device | None = None,
) -> Tensor:
    """Return which key each query of a segment sees, by the rules of ``attention``: (queries, keys), bool."""
    offset = num_keys - num_queries if align == "end" else 0
    positions = torch.arange(num_queries, device=device) + offset
    distance = positions[:, None] - torch.arange(num_keys, device=device)
    visible = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    return visible if window is None else visible & (distance.abs() < window)


def pair_segments(
    q_BTNH: Tensor, k_BSKH: Tensor, cu_seqlens: Tensor | None, cu_seqlens_k: Tensor | None
) -> list[tuple[int, int]]:
    """Return the number of queries and of keys of every segment; of a row, if there are no bounds.

    Raises: ShapeError if bounds do not cover the tokens or differ in number, or if those of the queries are
    missing.
    """
    if cu_seqlens is None:
        if cu_seqlens_k is not None:
            raise ShapeError("attention: cu_seqlens_k is given without cu_seqlens; give both, or neither")
        return [(q_BTNH.shape[1], k_BSKH.shape[1])]
    lengths_q = segment_lengths(cu_seqlens, q_BTNH.shape[0] * q_BTNH.shape[1])
    num_keys = k_BSKH.shape[0] * k_BSKH.shape[1]
    if cu_seqlens_k is None:
        lengths_k = segment_lengths(cu_seqlens, num_keys)
    else:
        lengths_k = segment_lengths(cu_seqlens_k, num_keys, "cu_seqlens_k")
    if len(lengths_q) != len(lengths_k):
        raise ShapeError(
            f"attention: cu_seqlens bounds {len(lengths_q)} segments and cu_seqlens_k {len(lengths_k)}; "
            "every segment needs both, empty ones included"
        )
    return list(zip(lengths_q, lengths_k, strict=True))


def segment_lengths(cu_seqlens: Tensor, num_tokens: int, name: str = "cu_seqlens") -> list[int]:
    """Return the lengths of the segments that ``cu_seqlens`` bounds.

    Raises: ShapeError if they do not start at 0, grow, and end at ``num_tokens``.
    """
    bounds: list[int] = cu_seqlens.flatten().tolist()
    lengths = [end - start for start, end in itertools.pairwise(bounds)]
    if cu_seqlens.dim() != 1 or not lengths or bounds[0] != 0 or bounds[-1] != num_tokens or min(lengths) < 0:
        raise ShapeError(
            f"attention: {name} {bounds[:8]}{' ...' if len(bounds) > 8 else ''} of shape "
            f"{tuple(cu_seqlens.shape)} must be one list rising from 0 to the number of tokens, {num_tokens}"
        )
    return lengths


def check_attention(
    q: Tensor, k: Tensor, v: Tensor, *, align: str, window: int | None, sink_N: Tensor | None
) -> None:
    """Raise ShapeError or ConfigError unless the arguments of ``attention`` fit, its bounds apart."""
    check_heads(q, k, v)
    if align not in ALIGNMENTS:
        raise ConfigError(f"attention: align='{align}'; use one of {', '.join(ALIGNMENTS)}")
    check_span("attention", q.shape[-2], window, sink_N)


def check_span(name: str, num_heads: int, window: int | None, sink_N: Tensor | None) -> None:
    """Raise ConfigError for a ``window`` below 1, ShapeError for a sink that is not one logit a head."""
    if window is not None and window < 1:
        raise ConfigError(
            f"{name}: window={window}; use 1 (a token sees itself) or more, or None for no window"
        )
    if sink_N is not None and sink_N.shape != (num_heads,):
        raise ShapeError(
            f"{name}: sink {tuple(sink_N.shape)} must be one logit for each of the {num_heads} query heads"
        )


def check_heads(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ShapeError unless q's heads are a multiple of k's and v's, and rows and head_dims agree.

    ``q`` is (B, T, N, H), or (B, N, H) for one token a row; ``k`` and ``v`` are (B, S, K, H).
    """
    if (
        q.dim() not in (3, 4)
        or k.dim() != 4
        or k.shape != v.shape
        or k.shape[0] != q.shape[0]
        or not heads_divide(q, k)
    ):
        raise ShapeError(
            f"attention: q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)} do not fit: k and v need "
            "one shape, and q a multiple of their heads with the same head_dim"
        )


def heads_divide(q: Tensor, k: Tensor) -> bool:
    """Return whether q's heads are a multiple of k's and their head_dims agree, none of them 0."""
    num_heads, num_kv_heads, head_dim = q.shape[-2], k.shape[-2], k.shape[-1]
    return (
        q.shape[-1] == head_dim > 0 and num_kv_heads > 0 and num_heads > 0 and num_heads % num_kv_heads == 0
    )
