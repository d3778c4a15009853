"""``npu_fused_infer_attention_score`` for one query a row: the branch of decoding.

Shapes: B rows, N query heads, G key-value heads, K keys a row, D head_dim, P pages of C positions.
Dtype: scores and sums in float32; the result in that of the query.
Source: the documentation of torch_npu 2.13.0, where the length of the queries is 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backends.ascend.emulation.reference.attention_mask import UNLIMITED
from backends.ascend.emulation.reference.registry import NotEmulated, Rejected, cover_only, reference

_OP = "npu_fused_infer_attention_score"
_FORMATS = (torch.float16, torch.bfloat16)
_MAX_HEADS, _MAX_HEAD_DIM, _MAX_GROUP, _MAX_KEYS = 256, 512, 64, 262_144
_MAX_PAGE, _PAGE_STEP, _MAX_WIDTH = 512, 16, 65_535


@reference("npu::npu_fused_infer_attention_score")
def npu_fused_infer_attention_score(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    pse_shift: Tensor | None = None,
    atten_mask: Tensor | None = None,
    actual_seq_lengths: list[int] | None = None,
    actual_seq_lengths_kv: list[int] | None = None,
    dequant_scale1: Tensor | None = None,
    quant_scale1: Tensor | None = None,
    dequant_scale2: Tensor | None = None,
    quant_scale2: Tensor | None = None,
    quant_offset2: Tensor | None = None,
    antiquant_scale: Tensor | None = None,
    antiquant_offset: Tensor | None = None,
    key_antiquant_scale: Tensor | None = None,
    key_antiquant_offset: Tensor | None = None,
    value_antiquant_scale: Tensor | None = None,
    value_antiquant_offset: Tensor | None = None,
    block_table: Tensor | None = None,
    query_padding_size: Tensor | None = None,
    kv_padding_size: Tensor | None = None,
    key_shared_prefix: Tensor | None = None,
    value_shared_prefix: Tensor | None = None,
    actual_shared_prefix_len: list[int] | None = None,
    query_rope: Tensor | None = None,
    key_rope: Tensor | None = None,
    key_rope_antiquant_scale: Tensor | None = None,
    num_heads: int = 1,
    scale: float = 1.0,
    pre_tokens: int = UNLIMITED,
    next_tokens: int = UNLIMITED,
    input_layout: str = "BSH",
    num_key_value_heads: int = 0,
    sparse_mode: int = 0,
    inner_precise: int = 0,
    block_size: int = 0,
    antiquant_mode: int = 0,
    key_antiquant_mode: int = 0,
    value_antiquant_mode: int = 0,
    softmax_lse_flag: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return attention (as the query) and, on request, log(sum(exp(scores))) (B, N, 1, 1), else a zero.

    The token limits, ``sparse_mode`` and ``actual_seq_lengths`` do nothing here. A row without keys gives
    zeros, one whose keys are all masked NaN (nobody says what the chip gives).
    """
    cover_only(
        _OP,
        pse_shift=pse_shift,
        dequant_scale1=dequant_scale1,
        quant_scale1=quant_scale1,
        dequant_scale2=dequant_scale2,
        quant_scale2=quant_scale2,
        quant_offset2=quant_offset2,
        antiquant_scale=antiquant_scale,
        antiquant_offset=antiquant_offset,
        key_antiquant_scale=key_antiquant_scale,
        key_antiquant_offset=key_antiquant_offset,
        value_antiquant_scale=value_antiquant_scale,
        value_antiquant_offset=value_antiquant_offset,
        query_padding_size=query_padding_size,
        kv_padding_size=kv_padding_size,
        key_shared_prefix=key_shared_prefix,
        value_shared_prefix=value_shared_prefix,
        query_rope=query_rope,
        key_rope=key_rope,
    )
    groups = num_key_value_heads or num_heads
    _check(query, key, value, num_heads, groups, inner_precise)
    queries = _heads(query, input_layout, num_heads)
    if block_table is None:
        keys, values = (_heads(x, input_layout, groups) for x in (key, value))
    else:
        _check_pages(query, key, block_table, actual_seq_lengths_kv, block_size)
        keys, values = (_gather(x, block_table, groups) for x in (key, value))
    lengths = _lengths(actual_seq_lengths_kv, query.shape[0], keys.shape[2]).to(query.device)
    out, lse = _attend(queries, keys, values, lengths, atten_mask, scale)
    return _joined(out, input_layout).to(query.dtype), lse if softmax_lse_flag else lse.new_zeros(1)


def _attend(
    queries: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Return the output (B, N, 1, D) and its log-sum-exp (B, N, 1, 1), in float32."""
    if queries.shape[2] != 1:
        raise NotEmulated(f"{_OP}: the emulator covers one query a row; {queries.shape[2]} were given")
    if queries.shape[-1] > _MAX_HEAD_DIM:
        raise Rejected(f"{_OP}: head_dim {queries.shape[-1]}; it takes up to {_MAX_HEAD_DIM}")
    num_keys = keys.shape[2]
    read = torch.arange(num_keys, device=queries.device) < lengths[:, None]
    seen = read if mask is None else read & ~_mask(mask, len(lengths), num_keys)
    # What is not read must not reach the result, not even as nan.
    repeats = queries.shape[1] // keys.shape[1]
    keys, values = (
        x.float().masked_fill(~read[:, None, :, None], 0.0).repeat_interleave(repeats, 1)
        for x in (keys, values)
    )
    scores = (queries.float() @ keys.mT * scale).masked_fill(~seen[:, None, None], -torch.inf)
    out = (scores.softmax(-1) @ values).masked_fill((lengths == 0)[:, None, None, None], 0.0)
    return out, scores.logsumexp(-1, keepdim=True)


def _check(
    query: Tensor, key: Tensor, value: Tensor, num_heads: int, groups: int, inner_precise: int
) -> None:
    if query.dtype not in _FORMATS or not query.dtype == key.dtype == value.dtype:
        raise Rejected(
            f"{_OP}: query, key and value must be float16 or bfloat16 alike; got {query.dtype}, {key.dtype}, "
            f"{value.dtype}"
        )
    if not all(x.is_contiguous() for x in (query, key, value)):
        raise Rejected(f"{_OP}: non-contiguous tensors are documented as not supported")
    if key.shape != value.shape:
        raise Rejected(f"{_OP}: key {tuple(key.shape)} and value {tuple(value.shape)} must have one shape")
    if num_heads > _MAX_HEADS or num_heads % groups or num_heads // groups > _MAX_GROUP:
        raise Rejected(
            f"{_OP}: {num_heads} query heads for {groups}; it takes up to {_MAX_HEADS}, a multiple of the "
            f"others, at most {_MAX_GROUP} for each"
        )
    if inner_precise not in (0, 1):
        raise Rejected(f"{_OP}: inner_precise={inner_precise}; with one query a row it is 0 or 1")


def _check_pages(
    query: Tensor, key: Tensor, block_table: Tensor, lengths: list[int] | None, block_size: int
) -> None:
    if key.dim() != 3:
        raise NotEmulated(f"{_OP}: the emulator covers pages of (pages, positions, heads * head_dim)")
    if key.shape[1] != block_size or block_size % _PAGE_STEP or not 0 < block_size <= _MAX_PAGE:
        raise Rejected(
            f"{_OP}: block_size={block_size} for pages of {key.shape[1]}; it is a multiple of {_PAGE_STEP} "
            f"up to {_MAX_PAGE}"
        )
    if key.shape[2] > _MAX_WIDTH:
        raise Rejected(f"{_OP}: {key.shape[2]} numbers a position; pages take up to {_MAX_WIDTH}")
    if lengths is None or len(lengths) < query.shape[0]:
        raise Rejected(f"{_OP}: pages need actual_seq_lengths_kv, one for each row")
    needed = -(-max(lengths, default=0) // block_size)
    if block_table.dtype != torch.int32 or block_table.dim() != 2 or not block_table.is_contiguous():
        raise Rejected(f"{_OP}: block_table must be a contiguous int32 matrix")
    if block_table.shape[0] != query.shape[0] or block_table.shape[1] < needed:
        raise Rejected(
            f"{_OP}: block_table {tuple(block_table.shape)} must have {query.shape[0]} rows of {needed} "
            "pages or more"
        )


def _heads(x: Tensor, layout: str, num_heads: int) -> Tensor:
    """Return (B, heads, tokens, D)."""
    match layout:
        case "BNSD":
            return x
        case "BSND":
            return x.transpose(1, 2)
        case "BSH":
            return x.unflatten(2, (num_heads, -1)).transpose(1, 2)
        case _:
            raise NotEmulated(f"{_OP}: the emulator covers input_layout BSH, BSND and BNSD")


def _joined(out_BN1D: Tensor, layout: str) -> Tensor:
    if layout == "BNSD":
        return out_BN1D.contiguous()
    out = out_BN1D.transpose(1, 2)
    return (out if layout == "BSND" else out.flatten(2)).contiguous()


def _gather(pages_PCH: Tensor, block_table: Tensor, groups: int) -> Tensor:
    # A page that no length reaches is not read, so any number may stand for it.
    rows = pages_PCH[block_table.long().clamp(0, pages_PCH.shape[0] - 1)].flatten(1, 2)
    return rows.unflatten(2, (groups, -1)).transpose(1, 2)


def _lengths(given: list[int] | None, num_rows: int, num_keys: int) -> Tensor:
    if given is None:
        given = [num_keys]
    if len(given) != 1 and len(given) < num_rows:
        raise Rejected(
            f"{_OP}: {len(given)} actual_seq_lengths_kv for {num_rows} rows; give one, or one for each"
        )
    lengths = torch.tensor([int(length) for length in given])[:num_rows]
    if bool(((lengths < 0) | (lengths > num_keys)).any()) or num_keys > _MAX_KEYS:
        raise Rejected(
            f"{_OP}: actual_seq_lengths_kv {given[:8]} must lie in 0 to {num_keys}, at most {_MAX_KEYS}"
        )
    return lengths.expand(num_rows)


def _mask(mask: Tensor, num_rows: int, num_keys: int) -> Tensor:
    """Return (B, K) or (1, K)."""
    if mask.dtype not in (torch.bool, torch.int8, torch.uint8) or not mask.is_contiguous():
        raise Rejected(f"{_OP}: atten_mask must be a contiguous bool, int8 or uint8, True where forbidden")
    shapes = [(rows, *middle, num_keys) for rows in {1, num_rows} for middle in ((1, 1), (1,), ())]
    if tuple(mask.shape) not in shapes or (mask.dim() == 3 and mask.shape[0] != 1):
        raise Rejected(
            f"{_OP}: atten_mask {tuple(mask.shape)} must be (B, 1, 1, {num_keys}) or one row of it"
        )
    return mask.reshape(-1, num_keys).bool()
