"""Attention by the NPU's fused kernel.

Shapes: B rows, T queries and S keys a row, N query heads, K key-value heads, H head_dim.
Limits: head_dim to 768, 256 query heads, 1024 packed segments a call (more take more calls).
Source: the schema of ``npu_fusion_attention`` in torch_npu 2.13.0 and its documentation: a mask is True where
attention is *forbidden*; sparse modes 2 to 4 take a compressed mask of fixed size; lengths are cumulative,
without the leading 0; row statistics come in eight equal lanes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch_npu
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable

from portable.core.errors import CapabilityError
from portable.kernel.reference import attention as reference

_ALL, _FROM_START, _FROM_END, _BAND = 0, 2, 3, 4  # sparse_mode; a band is counted from the last query and key
_COMPRESSED_MASK_SIZE = 2048
_UNLIMITED = 2**31 - 1
_MAX_SEGMENTS = 1024
_BLIND_ROWS = 2  # inner_precise: queries that see nothing give zeros

Segments = list[tuple[int, int]]  # queries and keys of each
Statistics = tuple[Tensor, Tensor, Tensor]  # output, row maxima, row sums


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
    """Compute ``attention`` of the reference. Rows are one layout of the kernel, packed segments another.

    Raises: as the reference; CapabilityError for a window counted from the start of unequal lengths.
    """
    reference.check_attention(q_BTNH, k_BSKH, v_BSKH, align=align, window=window, sink_N=sink_N)
    segments = reference.pair_segments(q_BTNH, k_BSKH, cu_seqlens, cu_seqlens_k)
    view = _View.of(segments, causal, align, window)
    kernel = _Kernel(view, _scale(q_BTNH, scale), None if sink_N is None else sink_N.float().contiguous())
    if _is_empty(q_BTNH, segments):
        return reference.attention(
            q_BTNH, k_BSKH, v_BSKH, cu_seqlens=cu_seqlens, cu_seqlens_k=cu_seqlens_k, sink_N=sink_N
        )
    qkv = _in_one_format(q_BTNH, k_BSKH, v_BSKH)
    if cu_seqlens is None:
        return kernel.rows(*qkv)[0].to(q_BTNH.dtype)
    out = _in_batches(lambda *parts: (kernel.packed(*parts)[0],), qkv, segments)[0]
    return out.view(q_BTNH.shape).to(q_BTNH.dtype)


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
    """Compute ``attention_with_lse`` of the reference, from the kernel's row statistics.

    The gradient of lse costs one more attention forward and backward, and nothing if nobody asks for it.

    Raises: as ``attention``; CapabilityError for a sink: whether the statistics count it is not documented.
    """
    reference.check_attention(q_BTNH, k_BSKH, v_BSKH, align=align, window=window, sink_N=sink_N)
    if sink_N is not None:
        raise CapabilityError(
            "attention__with_lse: whether softmax_max and softmax_sum of npu_fusion_attention count the sink "
            "is not documented; set kernel.rows.attention__with_lse=reference"
        )
    segments = reference.pair_segments(q_BTNH, k_BSKH, cu_seqlens, cu_seqlens_k)
    kernel = _Kernel(_View.of(segments, causal, align, window), _scale(q_BTNH, scale), None)
    if _is_empty(q_BTNH, segments):
        return reference.attention_with_lse(
            q_BTNH, k_BSKH, v_BSKH, cu_seqlens=cu_seqlens, cu_seqlens_k=cu_seqlens_k
        )
    qkv = _in_one_format(q_BTNH, k_BSKH, v_BSKH)
    if cu_seqlens is None:
        out, lse = kernel.rows_with_lse(*qkv)
        return out.to(q_BTNH.dtype), lse
    out, lse = _in_batches(kernel.packed_with_lse, qkv, segments, (0.0, -math.inf))
    return out.view(q_BTNH.shape).to(q_BTNH.dtype), lse.view(q_BTNH.shape[:3])


@dataclass(frozen=True, slots=True)
class _View:
    """Which keys a query sees, in the words of the kernel."""

    mode: int
    before: int = _UNLIMITED
    after: int = _UNLIMITED

    @classmethod
    def of(cls, segments: Segments, causal: bool, align: str, window: int | None) -> _View:
        if window is None:
            return cls(_ALL if not causal else _FROM_END if align == "end" else _FROM_START)
        if align == "start" and any(queries != keys for queries, keys in segments):
            raise CapabilityError(
                f"attention: window={window} with align='start': npu_fusion_attention counts a band from the "
                "last query and key; use align='end', as many keys as queries, or the reference row"
            )
        reach = min(window - 1, _UNLIMITED)
        return cls(_BAND, reach, 0 if causal else reach)

    def num_blind(self, queries: int, keys: int) -> int:
        """Return how many of the first queries see no key at all."""
        if self.mode not in (_FROM_END, _BAND):
            return 0
        return min(queries, max(0, queries - keys - (self.after if self.mode == _BAND else 0)))


@dataclass(frozen=True, slots=True)
class _Kernel:
    """The fused kernel with what does not change from call to call."""

    view: _View
    scale: float
    sink_N: Tensor | None

    def rows(self, q_BTNH: Tensor, k_BSKH: Tensor, v_BSKH: Tensor) -> Statistics:
        """Attend within rows; statistics (B, N, T, 8)."""
        blind = self.view.num_blind(q_BTNH.shape[1], k_BSKH.shape[1])
        return self._call(q_BTNH, k_BSKH, v_BSKH, "BSND", None, None, blind > 0)

    def packed(self, q_TNH: Tensor, k_SKH: Tensor, v_SKH: Tensor, segments: Segments) -> Statistics:
        """Attend within segments, none of them empty; statistics (T, N, 8)."""
        query_ends, key_ends = (list(itertools.accumulate(side)) for side in zip(*segments, strict=True))
        blind = any(self.view.num_blind(*segment) for segment in segments)
        return self._call(q_TNH, k_SKH, v_SKH, "TND", query_ends, key_ends, blind)

    def rows_with_lse(self, q_BTNH: Tensor, k_BSKH: Tensor, v_BSKH: Tensor) -> tuple[Tensor, Tensor]:
        """Attend within rows; returns (B, T, N, H) and (B, T, N)."""
        out, maxima, sums = self.rows(q_BTNH, k_BSKH, v_BSKH)
        lse_BTN = (maxima[..., 0] + sums[..., 0].log()).transpose(1, 2)
        blind_T1 = self._blind([(q_BTNH.shape[1], k_BSKH.shape[1])], q_BTNH.device)

        def mix(values_BSKH: Tensor) -> Tensor:
            return self.rows(q_BTNH.detach(), k_BSKH.detach(), values_BSKH)[0]

        return out, _Lse.apply(q_BTNH, k_BSKH, lse_BTN, blind_T1, self.scale, mix)

    def packed_with_lse(
        self, q_TNH: Tensor, k_SKH: Tensor, v_SKH: Tensor, segments: Segments
    ) -> tuple[Tensor, Tensor]:
        """Attend within segments, none of them empty; returns (T, N, H) and (T, N)."""
        out, maxima, sums = self.packed(q_TNH, k_SKH, v_SKH, segments)
        lse_TN = maxima[..., 0] + sums[..., 0].log()
        blind_T1 = self._blind(segments, q_TNH.device)

        def mix(values_SKH: Tensor) -> Tensor:
            return self.packed(q_TNH.detach(), k_SKH.detach(), values_SKH, segments)[0]

        return out, _Lse.apply(q_TNH, k_SKH, lse_TN, blind_T1, self.scale, mix)

    def _blind(self, segments: Segments, device: torch.device) -> Tensor | None:
        """Return which queries see nothing, as (T, 1); None if all see something."""
        counts = [self.view.num_blind(*segment) for segment in segments]
        if not any(counts):
            return None
        pairs = zip(segments, counts, strict=True)
        return torch.cat([torch.arange(queries) < count for (queries, _), count in pairs])[:, None].to(device)

    def _call(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: str,
        query_ends: list[int] | None,
        key_ends: list[int] | None,
        blind: bool,
    ) -> Statistics:
        return torch_npu.npu_fusion_attention(
            query.contiguous(),
            key.contiguous(),
            value.contiguous(),
            head_num=query.shape[-2],
            input_layout=layout,
            atten_mask=None if self.view.mode == _ALL else _future_of(query),
            scale=self.scale,
            pre_tockens=self.view.before,
            next_tockens=self.view.after,
            inner_precise=_BLIND_ROWS if blind else 0,
            actual_seq_qlen=query_ends,
            actual_seq_kvlen=key_ends,
            sparse_mode=self.view.mode,
            softmax_layout="" if query_ends is None else "TND",
            sink=self.sink_N,
        )[:3]


class _Lse(torch.autograd.Function):
    """Gives the log-sum-exp of the scores its gradient: d lse / d score is the softmax.

    So d lse / d q is scale times an attention whose values are the keys, and d lse / d k the gradient of
    those values. Shapes: q (..., N, H), lse (..., N), blind (T, 1).
    """

    # Any: the context is torch's own
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        lse: Tensor,
        blind: Tensor | None,
        scale: float,
        mix: Callable[[Tensor], Tensor],
    ) -> Tensor:
        ctx.scale, ctx.mix, ctx.blind = scale, mix, blind
        ctx.save_for_backward(q, k)
        return lse.clone() if blind is None else lse.masked_fill(blind, -math.inf)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_lse: Tensor) -> tuple[Tensor | None, ...]:
        q, k = ctx.saved_tensors
        if ctx.blind is not None:
            d_lse = d_lse.masked_fill(ctx.blind, 0.0)
        weights = (d_lse * ctx.scale).unsqueeze(-1)
        values = k.detach().requires_grad_()
        with torch.enable_grad():
            mixed = ctx.mix(values)
        (d_k,) = torch.autograd.grad(mixed, values, (weights * q).to(mixed.dtype))
        return (weights * mixed.detach()).to(q.dtype), d_k, None, None, None, None


def _in_batches(
    kernel: Callable[..., tuple[Tensor, ...]],
    qkv: list[Tensor],
    segments: Segments,
    of_blind: tuple[float, ...] = (0.0,),
) -> tuple[Tensor, ...]:
    """Call ``kernel`` on the packed tokens of up to 1024 segments at a time, and join what it returns.

    Segments without queries or without keys are left out, as the kernel takes none: queries without keys get
    ``of_blind``.
    """
    lengths = [[segment[side] for segment in segments] for side in (0, 1, 1)]
    q, k, v = (x.flatten(0, 1).split(sizes) for x, sizes in zip(qkv, lengths, strict=True))
    full = [index for index, segment in enumerate(segments) if all(segment)]
    if len(full) == len(segments) <= _MAX_SEGMENTS:  # as usual: nothing is cut
        return kernel(*(x.flatten(0, 1) for x in qkv), segments)
    pieces: dict[int, list[Tensor]] = {}
    for start in range(0, len(full), _MAX_SEGMENTS):
        batch = full[start : start + _MAX_SEGMENTS]
        results = kernel(
            *(torch.cat([part[index] for index in batch]) for part in (q, k, v)),
            [segments[index] for index in batch],
        )
        split = [result.split([segments[index][0] for index in batch]) for result in results]
        pieces.update({index: list(parts) for index, *parts in zip(batch, *split, strict=True)})
    like = next(iter(pieces.values()))
    for index, (queries, _) in enumerate(segments):
        if index not in pieces:
            pieces[index] = [
                part.new_full((queries, *part.shape[1:]), fill)
                for part, fill in zip(like, of_blind, strict=True)
            ]
    columns = zip(*(pieces[index] for index in range(len(segments))), strict=True)
    return tuple(torch.cat(column) for column in columns)


def _is_empty(q: Tensor, segments: Segments) -> bool:
    return q.numel() == 0 or not any(queries and keys for queries, keys in segments)


def _in_one_format(*tensors: Tensor) -> list[Tensor]:
    """Return all in the widest format of theirs, as the kernel wants one."""
    dtype = max((x.dtype for x in tensors), key=lambda item: item.itemsize)
    return [x.to(dtype) for x in tensors]


def _scale(q: Tensor, scale: float | None) -> float:
    return 1 / math.sqrt(q.shape[-1]) if scale is None else scale


def _future_of(query: Tensor) -> Tensor:
    """Return the compressed causal mask. A compiler's tensors have no data, and must not be kept."""
    return _make_future(query.device) if isinstance(query, FakeTensor) else _future(query.device)


@cache
def _future(device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # autograd will want to keep it, whoever asks first
        return _make_future(device)


def _make_future(device: torch.device) -> Tensor:
    """Return (2048, 2048), True above the diagonal."""
    size = (_COMPRESSED_MASK_SIZE, _COMPRESSED_MASK_SIZE)
    return torch.ones(size, dtype=torch.bool, device=device).triu(1)
