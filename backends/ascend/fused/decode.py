"""Attention of one new token a row to cached keys, by the NPU's fused kernel for inference.

Shapes: B rows, S cached positions, P pages of C positions, M pages a row, N query heads, K key-value heads, H
head_dim.
Limits: 16-bit numbers (others go to the reference), no gradient, head_dim to 512, 256 query heads, 64 of them
a key-value head; pages of a multiple of 16, at most 512 positions, and K * H to 65535.
Source: the schema of ``npu_fused_infer_attention_score`` in torch_npu 2.13.0 and its documentation, for Q_S =
1: a mask is True where attention is *forbidden*, lengths lie on the host, inputs are contiguous.
"""

from __future__ import annotations

import math

import torch
import torch_npu
from torch import Tensor

from portable.core.errors import CapabilityError
from portable.kernel.reference import decode as reference

_FORMATS = (torch.float16, torch.bfloat16)


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
    """Compute ``decode_attention`` of the reference.

    The lengths stay on the device, as a mask: to read them would stall it. The kernel is told how long the
    cache is, and reads all of that.

    Raises: as the reference; CapabilityError for a sink.
    """
    reference.check_decode(q_BNH, k_cache_BSKH, v_cache_BSKH, lengths_B, window, sink_N)
    _refuse_sink("decode_attention", sink_N)
    if not _takes(q_BNH, k_cache_BSKH, v_cache_BSKH):
        return reference.decode_attention(
            q_BNH, k_cache_BSKH, v_cache_BSKH, lengths_B, window=window, scale=scale
        )
    num_positions = k_cache_BSKH.shape[1]
    keys, values = _whole(k_cache_BSKH), _whole(v_cache_BSKH)
    if keys.shape != values.shape:
        keys, values = k_cache_BSKH.contiguous(), v_cache_BSKH.contiguous()
    out_B1NH, _ = torch_npu.npu_fused_infer_attention_score(
        q_BNH.unsqueeze(1).contiguous(),
        keys,
        values,
        atten_mask=_forbidden(lengths_B, keys.shape[1], window),
        actual_seq_lengths_kv=[num_positions],
        num_heads=q_BNH.shape[1],
        num_key_value_heads=keys.shape[2],
        scale=_scale(q_BNH, scale),
        input_layout="BSND",
    )
    return _zero_where_blind(out_B1NH.squeeze(1), lengths_B)


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
    """Compute ``paged_attention`` of the reference. Waits for the device: the kernel wants lengths from the
    host.

    Raises: as the reference; CapabilityError for a sink.
    """
    reference.check_paged(q_BNH, k_pages_PCKH, v_pages_PCKH, block_table_BM, lengths_B, window, sink_N)
    _refuse_sink("paged_attention", sink_N)
    if not _takes(q_BNH, k_pages_PCKH, v_pages_PCKH) or block_table_BM.numel() == 0:
        return reference.paged_attention(
            q_BNH, k_pages_PCKH, v_pages_PCKH, block_table_BM, lengths_B, window=window, scale=scale
        )
    page_size, num_kv_heads = k_pages_PCKH.shape[1:3]
    out_B1NH, _ = torch_npu.npu_fused_infer_attention_score(
        q_BNH.unsqueeze(1).contiguous(),
        k_pages_PCKH.flatten(2).contiguous(),
        v_pages_PCKH.flatten(2).contiguous(),
        atten_mask=None
        if window is None
        else _forbidden(lengths_B, block_table_BM.shape[1] * page_size, window),
        actual_seq_lengths_kv=lengths_B.tolist(),
        block_table=block_table_BM.clamp(min=0).to(torch.int32).contiguous(),
        block_size=page_size,
        num_heads=q_BNH.shape[1],
        num_key_value_heads=num_kv_heads,
        scale=_scale(q_BNH, scale),
        input_layout="BSND",
    )
    return _zero_where_blind(out_B1NH.squeeze(1), lengths_B)


def _takes(q: Tensor, k: Tensor, v: Tensor) -> bool:
    return q.dtype == k.dtype == v.dtype and q.dtype in _FORMATS and q.numel() > 0 and k.numel() > 0


def _refuse_sink(op: str, sink_N: Tensor | None) -> None:
    if sink_N is not None:
        raise CapabilityError(
            f"{op}: npu_fused_infer_attention_score has no sink; set kernel.rows.{op}=reference"
        )


def _whole(x_BSKH: Tensor) -> Tensor:
    """Return a contiguous cache. Where only its last positions were cut off, they are put back instead of
    copying the rest.
    """
    if x_BSKH.is_contiguous():
        return x_BSKH
    rows, positions, heads, size = x_BSKH.shape
    step, *inner = x_BSKH.stride()
    is_cut = inner == [heads * size, size, 1] and step % inner[0] == 0 and step // inner[0] >= positions
    end = x_BSKH.storage_offset() + rows * step
    if not is_cut or end * x_BSKH.element_size() > x_BSKH.untyped_storage().nbytes():
        return x_BSKH.contiguous()
    return x_BSKH.as_strided((rows, step // inner[0], heads, size), x_BSKH.stride())


def _forbidden(lengths_B: Tensor, num_positions: int, window: int | None) -> Tensor:
    """Return (B, 1, 1, S), True at positions that a row's token does not see."""
    positions = torch.arange(num_positions, device=lengths_B.device)
    forbidden = positions >= lengths_B[:, None]
    if window is not None:
        forbidden |= positions < lengths_B[:, None] - window
    return forbidden[:, None, None]


def _zero_where_blind(out_BNH: Tensor, lengths_B: Tensor) -> Tensor:
    """Clear rows of length 0: with one query the kernel cannot be asked to."""
    return out_BNH.masked_fill((lengths_B == 0)[:, None, None], 0.0)


def _scale(q: Tensor, scale: float | None) -> float:
    return 1 / math.sqrt(q.shape[-1]) if scale is None else scale
