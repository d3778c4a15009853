"""Attention through torch's fused kernel (``scaled_dot_product_attention`` calls it), segment by segment.

Shapes: B rows, T tokens a row, S keys a row or cached positions, t and s those of a segment, N query heads, K
key-value heads, H head_dim. In here heads come before tokens: (rows, heads, tokens, H).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from backends.cpu.kernel.flash import flash_with_lse
from backends.cpu.kernel.layout import dense
from portable.kernel.reference.attention import check_attention, pair_segments, visible_pairs
from portable.kernel.reference.decode import check_decode
from portable.kernel.reference.precision import without_autocast

Segments = list[tuple[int, int]]


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
    """Compute ``attention`` of the reference.

    Segments of one size share a call, for which the tokens are sorted by it. Where most sizes differ that
    would gain nothing, and each segment has a call of its own. Measured: see README.md of the backend.
    """
    check_attention(q_BTNH, k_BSKH, v_BSKH, align=align, window=window, sink_N=sink_N)
    segments = pair_segments(q_BTNH, k_BSKH, cu_seqlens, cu_seqlens_k)
    view = _View(causal, align, window, sink_N, scale)
    return _attend(q_BTNH, k_BSKH, v_BSKH, segments if cu_seqlens is not None else None, view)[0]


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
    """Compute ``attention_with_lse`` of the reference."""
    check_attention(q_BTNH, k_BSKH, v_BSKH, align=align, window=window, sink_N=sink_N)
    segments = pair_segments(q_BTNH, k_BSKH, cu_seqlens, cu_seqlens_k)
    view = _View(causal, align, window, sink_N, scale)
    return _attend(q_BTNH, k_BSKH, v_BSKH, segments if cu_seqlens is not None else None, view)


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
    """Compute ``decode_attention`` of the reference without gradients, no further than the longest row."""
    check_decode(q_BNH, k_cache_BSKH, v_cache_BSKH, lengths_B, window, sink_N)
    longest = int(lengths_B.max()) if lengths_B.numel() else 0
    positions = torch.arange(longest, device=q_BNH.device)
    visible_BS = positions < lengths_B[:, None]
    if window is not None:
        visible_BS = visible_BS & (positions >= lengths_B[:, None] - window)
    view = _View(True, "end", window, sink_N, scale)
    q, k, v = _alike(q_BNH.unsqueeze(1), k_cache_BSKH[:, :longest], v_cache_BSKH[:, :longest])
    with without_autocast(q_BNH):
        out_B1NH, _ = view.attend(q, k, v, visible_BS[:, None, None, :])
    return out_B1NH.squeeze(1).to(q_BNH.dtype)


@dataclass(frozen=True, slots=True)
class _View:
    """What queries see, and what becomes of it; the fields are the arguments of ``attention``."""

    causal: bool
    align: str
    window: int | None
    sink_N: Tensor | None
    scale: float | None

    def attend_rows(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Attend within each row of (rows, t, N, H) queries and (rows, s, K, H) keys and values."""
        num_queries, num_keys = q.shape[1], k.shape[1]
        if self._sees_all(num_queries, num_keys):
            return self.attend(q, k, v, None)
        if self._is_lower_triangle(num_queries, num_keys):
            return self.attend(q, k, v, None, is_causal=True)
        visible = visible_pairs(
            num_queries,
            num_keys,
            causal=self.causal,
            align=self.align,
            window=self.window,
            device=q.device,
        )
        return self.attend(q, k, v, visible[None, None])

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, *, is_causal: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return the output (rows, t, N, H) and lse (rows, t, N).

        ``visible`` broadcasts to (rows, N, t, s). A query that sees nothing is shown everything, and what
        comes of it is put aside: the kernel would answer with not-a-number.
        """
        blind: Tensor | None = None
        if q.numel() == 0 or k.numel() == 0:
            return self._with_sink(_mix_nothing(q, k, v), q.new_full(q.shape[:-1], -math.inf))
        if visible is not None:
            blind = ~visible.any(-1, keepdim=True)
            visible = visible | blind
            blind = blind.transpose(1, 2)
        out, lse = self._run(q, k, v, visible, is_causal)
        if blind is not None:
            out = out.masked_fill(blind, 0.0)
            lse = lse.masked_fill(blind.squeeze(-1), -math.inf)
        return self._with_sink(out, lse)

    def _run(
        self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, is_causal: bool
    ) -> tuple[Tensor, Tensor]:
        q, k, v = (dense(x).transpose(1, 2) for x in (q, k, v))
        out, lse = flash_with_lse(q, k, v, visible, is_causal=is_causal, scale=self.scale)
        return out.transpose(1, 2), lse.transpose(1, 2)

    def _with_sink(self, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
        """Let the sink take its share: the keys keep exp(lse) / (exp(lse) + exp(sink)) of the weight."""
        if self.sink_N is None:
            return out, lse
        sink_N = self.sink_N.to(lse.dtype)
        share = torch.sigmoid(lse - sink_N).unsqueeze(-1)
        return (out * share).to(out.dtype), torch.logaddexp(lse, sink_N)

    def _sees_all(self, num_queries: int, num_keys: int) -> bool:
        if self.window is not None and self.window < num_queries + num_keys:
            return False
        return not self.causal or (num_queries == 1 and self.align == "end")

    def _is_lower_triangle(self, num_queries: int, num_keys: int) -> bool:
        if not self.causal or (self.window is not None and self.window < num_queries + num_keys):
            return False
        return num_queries == num_keys or self.align == "start"


def _attend(
    q_BTNH: Tensor, k_BSKH: Tensor, v_BSKH: Tensor, segments: Segments | None, view: _View
) -> tuple[Tensor, Tensor]:
    qkv = _alike(q_BTNH, k_BSKH, v_BSKH)
    with without_autocast(q_BTNH):
        if segments is None:
            out, lse = view.attend_rows(*qkv)
        else:
            flat = [x.flatten(0, 1) for x in qkv]
            out, lse = _attend_segments(flat, [pair for pair in segments if any(pair)], view)
            out, lse = out.view(q_BTNH.shape), lse.view(q_BTNH.shape[:3])
    return out.to(q_BTNH.dtype), lse


def _attend_segments(flat: Sequence[Tensor], segments: Segments, view: _View) -> tuple[Tensor, Tensor]:
    """Attend within segments of (tokens, heads, H) queries, keys and values, none of the segments empty."""
    sizes = set(segments)
    if len(sizes) <= 1:
        out, lse = view.attend_rows(*_cut_rows(flat, segments[0] if segments else (0, 0), len(segments)))
        return out.flatten(0, 1), lse.flatten(0, 1)
    if 2 * len(sizes) > len(segments):
        return _attend_parts(flat, [(pair, 1) for pair in segments], view)
    order_q, order_k = (_order_by_size(segments, side, flat[0].device) for side in (0, 1))
    by_size = dict.fromkeys(segments)  # in order of first appearance
    parts = [(pair, segments.count(pair)) for pair in by_size]
    ordered = [x.index_select(0, order) for x, order in zip(flat, (order_q, order_k, order_k), strict=True)]
    out, lse = _attend_parts(ordered, parts, view)
    back = torch.empty_like(order_q)
    back[order_q] = torch.arange(order_q.numel(), device=order_q.device)
    return out.index_select(0, back), lse.index_select(0, back)


def _attend_parts(
    flat: Sequence[Tensor], parts: Sequence[tuple[tuple[int, int], int]], view: _View
) -> tuple[Tensor, Tensor]:
    """Cut the tokens into parts of so many segments of one size each, and attend in each part."""
    q_sizes, k_sizes = ([pair[side] * count for pair, count in parts] for side in (0, 1))
    pieces = (x.split(sizes) for x, sizes in zip(flat, (q_sizes, k_sizes, k_sizes), strict=True))
    outs: list[Tensor] = []
    lses: list[Tensor] = []
    for (pair, count), q, k, v in zip(parts, *pieces, strict=True):
        out, lse = view.attend_rows(*_cut_rows((q, k, v), pair, count))
        outs.append(out.flatten(0, 1))
        lses.append(lse.flatten(0, 1))
    return torch.cat(outs), torch.cat(lses)


def _cut_rows(flat: Sequence[Tensor], pair: tuple[int, int], count: int) -> list[Tensor]:
    """Return (tokens, heads, H) queries, keys and values as ``count`` segments of one size, a row each."""
    return [x.unflatten(0, (count, size)) for x, size in zip(flat, (pair[0], pair[1], pair[1]), strict=True)]


def _order_by_size(segments: Segments, side: int, device: torch.device) -> Tensor:
    """Return the tokens' indices: segments of one size together, sizes as they first appear."""
    starts = accumulate((pair[side] for pair in segments), initial=0)
    groups: dict[tuple[int, int], list[int]] = {}
    for pair, start in zip(segments, starts, strict=False):
        groups.setdefault(pair, []).append(start)
    indices = [
        (torch.tensor(first)[:, None] + torch.arange(pair[side])).flatten() for pair, first in groups.items()
    ]
    return torch.cat(indices).to(device)


def _alike(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return all three in one format, float32 or wider.

    In 16 bits the fused kernel rounds the weights and the output before its backward pass subtracts them from
    each other; with large logits its gradients were off by their own size.
    """
    dtype = torch.float64 if torch.float64 in (q.dtype, k.dtype, v.dtype) else torch.float32
    return q.to(dtype), k.to(dtype), v.to(dtype)


def _mix_nothing(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return the zeros that come of no keys, or the nothing of no queries, connected to all three."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    grouped = q.unflatten(1, (k.shape[1], -1)).flatten(2, 3)
    return (grouped @ k.mT @ v).view(q.shape).transpose(1, 2)
