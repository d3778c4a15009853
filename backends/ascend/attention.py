"""Attention through the NPU's fused kernel.

Shapes: B rows, T tokens a row, N query heads, K key-value heads, H head_dim.
Source: the schema of ``npu::npu_fusion_attention`` in torch_npu 2.13.0 and its documentation there: a mask
is True where attention is *forbidden*; ``sparse_mode`` 3 is causal, aligned to the last row and column, and
takes a compressed mask of fixed size; lengths are cumulative, without the leading 0.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch_npu
from torch import Tensor

from portable.kernel.reference.attention import check_heads, segment_lengths

_ALL, _CAUSAL = 0, 3  # sparse_mode
_COMPRESSED_MASK_SIZE = 2048


def attention(
    q_BTNH: Tensor,
    k_BTKH: Tensor,
    v_BTKH: Tensor,
    *,
    cu_seqlens: Tensor | None = None,
    causal: bool = True,
    scale: float | None = None,
) -> Tensor:
    """Compute ``attention`` of the reference. Rows are one layout of the kernel, packed segments another."""
    check_heads(q_BTNH, k_BTKH, v_BTKH)
    shape = q_BTNH.shape
    if q_BTNH.numel() == 0:
        return torch.zeros_like(q_BTNH)
    if cu_seqlens is None:
        return _fused([q_BTNH, k_BTKH, v_BTKH], "BSND", None, causal, scale)
    lengths = [length for length in segment_lengths(cu_seqlens, shape[0] * shape[1]) if length]
    ends = torch.tensor(lengths).cumsum(0).tolist()
    flat = [x.flatten(0, 1) for x in (q_BTNH, k_BTKH, v_BTKH)]
    return _fused(flat, "TND", ends, causal, scale).view(shape)


def _fused(
    qkv: list[Tensor], layout: str, ends: list[int] | None, causal: bool, scale: float | None
) -> Tensor:
    query, key, value = (x.contiguous() for x in qkv)
    return torch_npu.npu_fusion_attention(
        query,
        key,
        value,
        head_num=query.shape[-2],
        input_layout=layout,
        atten_mask=_future(query.device) if causal else None,
        scale=1 / math.sqrt(query.shape[-1]) if scale is None else scale,
        actual_seq_qlen=ends,
        actual_seq_kvlen=ends,
        sparse_mode=_CAUSAL if causal else _ALL,
    )[0]


@cache
def _future(device: torch.device) -> Tensor:
    """Return the compressed causal mask: True above the diagonal."""
    size = (_COMPRESSED_MASK_SIZE, _COMPRESSED_MASK_SIZE)
    return torch.ones(size, dtype=torch.bool, device=device).triu(1)
