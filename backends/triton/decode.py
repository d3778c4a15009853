"""Attention of one new token a row to its cache, which lies in one piece or in pages.

The positions of a row are split among programs so that few rows still fill a GPU; a second kernel joins the
parts.

Shapes: B rows, S cached positions, P pages, C positions a page, M pages a row, N query heads, K key-value
heads, G = N / K, H head_dim.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from backends.triton import tuning
from backends.triton.launch import NAMESPACE, launch
from backends.triton.tuning import tile
from portable.kernel.reference.decode import check_decode, check_paged

_NARROWEST = 16  # the least that a dim of a matrix product may have
_LEAST_POSITIONS = 256  # of a part: below, joining costs more than it gains
LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


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
    """Compute ``decode_attention`` of the reference, without gradients."""
    check_decode(q_BNH, k_cache_BSKH, v_cache_BSKH, lengths_B, window, sink_N)
    scale = 1 / math.sqrt(q_BNH.shape[-1]) if scale is None else scale
    return _decode(q_BNH, k_cache_BSKH, v_cache_BSKH, None, lengths_B, sink_N, window or 0, scale)


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
    """Compute ``paged_attention`` of the reference, without gradients."""
    check_paged(q_BNH, k_pages_PCKH, v_pages_PCKH, block_table_BM, lengths_B, window, sink_N)
    scale = 1 / math.sqrt(q_BNH.shape[-1]) if scale is None else scale
    return _decode(q_BNH, k_pages_PCKH, v_pages_PCKH, block_table_BM, lengths_B, sink_N, window or 0, scale)


@torch.library.custom_op(f"{NAMESPACE}::decode_attention", mutates_args=())
def _decode(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor | None,
    lengths: Tensor,
    sink: Tensor | None,
    window: int,
    scale: float,
) -> Tensor:
    """Attend to a cache in pages, or without ``table`` to one page a row."""
    (num_rows, num_heads, head_dim), num_kv_heads = q.shape, k.shape[2]
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    group = num_heads // num_kv_heads
    padded = max(_NARROWEST, triton.next_power_of_2(head_dim))
    width = torch.promote_types(q.dtype, k.dtype).itemsize
    variant = "32_bits" if width > 2 else ""
    config = tile("decode", q.device, variant, bytes_per_element=width, shared_width=padded)
    capacity = k.shape[1] * (1 if table is None else table.shape[1])
    splits = _num_splits(num_rows * num_kv_heads, capacity, q.device)
    parts = (num_rows, num_heads, splits)
    peaks, totals = (torch.empty(parts, dtype=torch.float32, device=q.device) for _ in range(2))
    mixed = torch.empty((*parts, head_dim), dtype=torch.float32, device=q.device)
    k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (k, v))
    launch(
        _part_kernel,
        (num_rows, num_kv_heads, splits),
        q,
        *(q.to(torch.promote_types(q.dtype, k.dtype)).contiguous(), k, v),
        *(None if table is None else table.contiguous(), lengths.contiguous(), peaks, totals, mixed),
        *(*k.stride()[:3], *v.stride()[:3]),
        *(0 if table is None else table.shape[1], k.shape[1], head_dim, scale, window),
        GROUP=group,
        WINDOW=window > 0,
        G=max(_NARROWEST, triton.next_power_of_2(group)),
        N=config.n,
        H=padded,
        **config.options,
    )
    launch(
        _join_kernel,
        (num_rows, num_heads),
        q,
        *(peaks, totals, mixed, None if sink is None else sink.contiguous(), out, splits, head_dim),
        SPLITS=triton.next_power_of_2(splits),
        H=padded,
    )
    return out


@_decode.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor | None,
    lengths: Tensor,
    sink: Tensor | None,
    window: int,
    scale: float,
) -> Tensor:
    return q.new_empty(q.shape)


def _num_splits(num_programs: int, capacity: int, device: torch.device) -> int:
    """Return into how many parts the positions of a row are split to occupy every unit twice."""
    wanted = 2 * tuning.machine(device).num_units // max(num_programs, 1)
    return max(1, min(wanted, capacity // _LEAST_POSITIONS))


@triton.jit
def _part_kernel(
    q_ptr: tl.tensor, k_ptr: tl.tensor, v_ptr: tl.tensor, table_ptr: tl.tensor, lengths_ptr: tl.tensor,
    peaks_ptr: tl.tensor, totals_ptr: tl.tensor, mixed_ptr: tl.tensor,
    k_page: tl.tensor, k_place: tl.tensor, k_head: tl.tensor,
    v_page: tl.tensor, v_place: tl.tensor, v_head: tl.tensor,
    table_width: int, page_size: int, head_dim: int, scale: float, window: int,
    GROUP: tl.constexpr, WINDOW: tl.constexpr, G: tl.constexpr, N: tl.constexpr, H: tl.constexpr,
) -> None:  # fmt: skip
    """The heads that share a key-value head, on one part of a row's positions."""
    row = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    length = tl.load(lengths_ptr + row).to(tl.int32)
    low = length * 0
    if WINDOW:
        low = tl.maximum(length - window, 0)
    share = tl.cdiv(tl.cdiv(length - low, tl.num_programs(2)), N) * N
    low += tl.program_id(2) * share
    high = tl.minimum(low + share, length)
    members = tl.arange(0, G)
    heads = kv_head * GROUP + members
    dims = tl.arange(0, H)
    in_head = dims < head_dim
    num_heads = tl.num_programs(1) * GROUP
    at = (row * num_heads + heads)[:, None] * head_dim + dims[None, :]
    q = tl.load(q_ptr + at, mask=(members < GROUP)[:, None] & in_head[None, :], other=0.0)
    peak = tl.full((G,), float("-inf"), tl.float32)
    total = tl.zeros((G,), tl.float32)
    mixed = tl.zeros((G, H), tl.float32)
    for start in range(low, high, N):
        positions = start + tl.arange(0, N)
        inside = positions < high
        places = (positions % page_size).to(tl.int64)
        if table_ptr is None:
            pages = row + tl.zeros((N,), tl.int64)
        else:
            entries = row * table_width + positions // page_size
            pages = tl.load(table_ptr + entries, mask=inside, other=0).to(tl.int64)
        readable = inside[:, None] & in_head[None, :]
        k_at = (pages * k_page + places * k_place + kv_head * k_head)[:, None] + dims[None, :]
        k = tl.load(k_ptr + k_at, mask=readable, other=0.0).to(q.dtype)
        logits = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * LOG2_E)
        logits = tl.where(inside[None, :], logits, float("-inf"))
        higher = tl.maximum(peak, tl.max(logits, axis=1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp2(logits - base[:, None])
        shrink = tl.exp2(peak - base)
        v_at = (pages * v_page + places * v_place + kv_head * v_head)[:, None] + dims[None, :]
        v = tl.load(v_ptr + v_at, mask=readable, other=0.0).to(q.dtype)
        mixed = mixed * shrink[:, None] + tl.dot(weights.to(q.dtype), v, input_precision="ieee")
        total = total * shrink + tl.sum(weights, axis=1)
        peak = higher
    parts = (row * num_heads + heads) * tl.num_programs(2) + tl.program_id(2)
    tl.store(peaks_ptr + parts, peak, mask=members < GROUP)
    tl.store(totals_ptr + parts, total, mask=members < GROUP)
    wanted = (members < GROUP)[:, None] & in_head[None, :]
    tl.store(mixed_ptr + parts[:, None] * head_dim + dims[None, :], mixed, mask=wanted)


@triton.jit
def _join_kernel(
    peaks_ptr: tl.tensor,
    totals_ptr: tl.tensor,
    mixed_ptr: tl.tensor,
    sink_ptr: tl.tensor,
    out_ptr: tl.tensor,
    num_splits: int,
    head_dim: int,
    SPLITS: tl.constexpr,
    H: tl.constexpr,
) -> None:
    head = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    splits = tl.arange(0, SPLITS)
    dims = tl.arange(0, H)
    there = splits < num_splits
    parts = head * num_splits + splits
    peaks = tl.load(peaks_ptr + parts, mask=there, other=float("-inf"))
    totals = tl.load(totals_ptr + parts, mask=there, other=0.0)
    inside = there[:, None] & (dims < head_dim)[None, :]
    mixed = tl.load(mixed_ptr + parts[:, None] * head_dim + dims[None, :], mask=inside, other=0.0)
    peak = tl.max(peaks, axis=0)
    if sink_ptr is not None:
        sink = tl.load(sink_ptr + tl.program_id(1)).to(tl.float32) * LOG2_E
        peak = tl.maximum(peak, sink)
    peak = tl.where(peak == float("-inf"), 0.0, peak)
    shares = tl.exp2(peaks - peak)
    total = tl.sum(totals * shares, axis=0)
    if sink_ptr is not None:
        total += tl.exp2(sink - peak)
    out = tl.sum(mixed * shares[:, None], axis=0) / tl.where(total == 0.0, 1.0, total)
    at = out_ptr + head * head_dim + dims
    tl.store(at, out.to(out_ptr.dtype.element_ty), mask=dims < head_dim)
