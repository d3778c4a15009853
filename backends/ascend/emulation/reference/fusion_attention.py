"""``npu_fusion_attention`` and its gradient, in the three versions that torch_npu registers.

They differ in how lengths and random state travel: as numbers (versions 1 and 2) or as tensors (3). Version 2
spells its token arguments differently and has more ways to add a position bias.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backends.ascend.emulation.reference.attention import (
    Call,
    attend,
    attend_backward,
    draw_keeps,
    draw_state,
)
from backends.ascend.emulation.reference.attention_mask import UNLIMITED, MaskRule, parse_mode
from backends.ascend.emulation.reference.registry import NotEmulated, cover_only, reference


def make_call(
    op: str,
    head_num: int,
    input_layout: str,
    *,
    pse: Tensor | None,
    atten_mask: Tensor | None,
    scale: float,
    keep_prob: float,
    tokens: tuple[int, int],
    prefix: list[int] | None,
    ends: tuple[list[int] | Tensor | None, list[int] | Tensor | None],
    sparse_mode: int,
    softmax_layout: str,
    sink: Tensor | None,
    pse_type: int = 1,
) -> Call:
    """Collect the arguments and check the mask."""
    query_ends, key_ends = (None if x is None else [int(end) for end in x] for x in ends)
    packed = input_layout == "TND"
    if pse is not None and (packed or pse.dim() != 4 or pse_type not in (0, 1)):
        raise NotEmulated(
            f"{op}: the emulator covers pse of shape BNSS, BN1S or 1NSS with pse_type 0 or 1 only"
        )
    mask = MaskRule(op, parse_mode(op, sparse_mode), atten_mask, tokens[0], tokens[1], prefix)
    mask.check()
    return Call(
        op=op,
        head_num=head_num,
        layout=input_layout,
        scale=scale,
        keep_prob=keep_prob,
        mask=mask,
        pse=pse,
        pse_first=pse_type == 1,
        query_ends=query_ends if packed else None,
        key_ends=key_ends if packed else None,
        softmax_layout=softmax_layout,
        sink=sink,
    )


def forward(
    call: Call, query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, int, int, int]:
    """Return output, row maxima, row sums, an empty tensor, seed, offset and the number of dropout draws."""
    seed, offset = draw_state(query, call.keep_prob)
    keeps = draw_keeps(call, query, key, seed, offset)
    out, maximum, total = attend(call, query, key, value, keeps)
    num_draws = 0 if keeps is None else sum(keep.numel() for keep in keeps)
    return out, maximum, total, query.new_empty(0), seed, offset, num_draws


@reference("npu::npu_fusion_attention")
def npu_fusion_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    head_num: int,
    input_layout: str,
    pse: Tensor | None = None,
    padding_mask: Tensor | None = None,
    atten_mask: Tensor | None = None,
    scale: float = 1.0,
    keep_prob: float = 1.0,
    pre_tockens: int = UNLIMITED,
    next_tockens: int = UNLIMITED,
    inner_precise: int = 0,
    prefix: list[int] | None = None,
    actual_seq_qlen: list[int] | None = None,
    actual_seq_kvlen: list[int] | None = None,
    sparse_mode: int = 0,
    gen_mask_parallel: bool = True,
    sync: bool = False,
    softmax_layout: str = "",
    sink: Tensor | None = None,
    dropout_mask: Tensor | None = None,
    seed: int = 0,
    offset: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor, int, int, int]:
    """Version 1."""
    cover_only("npu_fusion_attention", padding_mask=padding_mask, dropout_mask=dropout_mask)
    call = make_call(
        "npu_fusion_attention",
        head_num,
        input_layout,
        pse=pse,
        atten_mask=atten_mask,
        scale=scale,
        keep_prob=keep_prob,
        tokens=(pre_tockens, next_tockens),
        prefix=prefix,
        ends=(actual_seq_qlen, actual_seq_kvlen),
        sparse_mode=sparse_mode,
        softmax_layout=softmax_layout,
        sink=sink,
    )
    return forward(call, query, key, value)


@reference("npu::npu_fusion_attention_grad")
def npu_fusion_attention_grad(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dy: Tensor,
    head_num: int,
    input_layout: str,
    *,
    pse: Tensor | None = None,
    padding_mask: Tensor | None = None,
    atten_mask: Tensor | None = None,
    softmax_max: Tensor | None = None,
    softmax_sum: Tensor | None = None,
    softmax_in: Tensor | None = None,
    attention_in: Tensor | None = None,
    scale_value: float = 1.0,
    keep_prob: float = 1.0,
    pre_tockens: int = UNLIMITED,
    next_tockens: int = UNLIMITED,
    inner_precise: int = 0,
    seed: int = 0,
    offset: int = 0,
    numels: int = 0,
    prefix: list[int] | None = None,
    actual_seq_qlen: list[int] | None = None,
    actual_seq_kvlen: list[int] | None = None,
    sparse_mode: int = 0,
    gen_mask_parallel: bool = True,
    sync: bool = False,
    softmax_layout: str = "",
    sink: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """Gradients of query, key, value, pse, sink for version 1."""
    cover_only("npu_fusion_attention_grad", padding_mask=padding_mask)
    call = make_call(
        "npu_fusion_attention_grad",
        head_num,
        input_layout,
        pse=pse,
        atten_mask=atten_mask,
        scale=scale_value,
        keep_prob=keep_prob,
        tokens=(pre_tockens, next_tockens),
        prefix=prefix,
        ends=(actual_seq_qlen, actual_seq_kvlen),
        sparse_mode=sparse_mode,
        softmax_layout=softmax_layout,
        sink=sink,
    )
    keeps = draw_keeps(call, query, key, seed, offset)
    return attend_backward(call, (query, key, value), keeps, (softmax_max, softmax_sum, attention_in), dy)


@reference("npu::npu_fusion_attention_v2")
def npu_fusion_attention_v2(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    head_num: int,
    input_layout: str,
    *,
    pse: Tensor | None = None,
    padding_mask: Tensor | None = None,
    atten_mask: Tensor | None = None,
    query_rope: Tensor | None = None,
    key_rope: Tensor | None = None,
    scale: float = 1.0,
    keep_prob: float = 1.0,
    pre_tokens: int = UNLIMITED,
    next_tokens: int = UNLIMITED,
    inner_precise: int = 0,
    prefix: list[int] | None = None,
    actual_seq_qlen: list[int] | None = None,
    actual_seq_kvlen: list[int] | None = None,
    sparse_mode: int = 0,
    gen_mask_parallel: bool = True,
    sync: bool = False,
    pse_type: int = 1,
    q_start_idx: list[int] | None = None,
    kv_start_idx: list[int] | None = None,
    softmax_layout: str = "",
    sink: Tensor | None = None,
    dropout_mask: Tensor | None = None,
    seed: int = 0,
    offset: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor, int, int, int]:
    """Version 2."""
    cover_only(
        "npu_fusion_attention_v2",
        padding_mask=padding_mask,
        query_rope=query_rope,
        key_rope=key_rope,
        q_start_idx=q_start_idx,
        kv_start_idx=kv_start_idx,
        dropout_mask=dropout_mask,
    )
    call = make_call(
        "npu_fusion_attention_v2",
        head_num,
        input_layout,
        pse=pse,
        atten_mask=atten_mask,
        scale=scale,
        keep_prob=keep_prob,
        tokens=(pre_tokens, next_tokens),
        prefix=prefix,
        ends=(actual_seq_qlen, actual_seq_kvlen),
        sparse_mode=sparse_mode,
        softmax_layout=softmax_layout,
        sink=sink,
        pse_type=pse_type,
    )
    return forward(call, query, key, value)


@reference("npu::npu_fusion_attention_grad_v2")
def npu_fusion_attention_grad_v2(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dy: Tensor,
    head_num: int,
    input_layout: str,
    *,
    pse: Tensor | None = None,
    padding_mask: Tensor | None = None,
    atten_mask: Tensor | None = None,
    softmax_max: Tensor | None = None,
    softmax_sum: Tensor | None = None,
    softmax_in: Tensor | None = None,
    attention_in: Tensor | None = None,
    query_rope: Tensor | None = None,
    key_rope: Tensor | None = None,
    scale_value: float = 1.0,
    keep_prob: float = 1.0,
    pre_tokens: int = UNLIMITED,
    next_tokens: int = UNLIMITED,
    inner_precise: int = 0,
    seed: int = 0,
    offset: int = 0,
    numels: int = 0,
    prefix: list[int] | None = None,
    actual_seq_qlen: list[int] | None = None,
    actual_seq_kvlen: list[int] | None = None,
    sparse_mode: int = 0,
    gen_mask_parallel: bool = True,
    sync: bool = False,
    pse_type: int = 1,
    q_start_idx: list[int] | None = None,
    kv_start_idx: list[int] | None = None,
    softmax_layout: str = "",
    sink: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """Gradients of query, key, value, pse, query_rope, key_rope, sink for version 2."""
    cover_only(
        "npu_fusion_attention_grad_v2",
        padding_mask=padding_mask,
        query_rope=query_rope,
        key_rope=key_rope,
        q_start_idx=q_start_idx,
        kv_start_idx=kv_start_idx,
    )
    call = make_call(
        "npu_fusion_attention_grad_v2",
        head_num,
        input_layout,
        pse=pse,
        atten_mask=atten_mask,
        scale=scale_value,
        keep_prob=keep_prob,
        tokens=(pre_tokens, next_tokens),
        prefix=prefix,
        ends=(actual_seq_qlen, actual_seq_kvlen),
        sparse_mode=sparse_mode,
        softmax_layout=softmax_layout,
        sink=sink,
        pse_type=pse_type,
    )
    keeps = draw_keeps(call, query, key, seed, offset)
    gradients = attend_backward(
        call, (query, key, value), keeps, (softmax_max, softmax_sum, attention_in), dy
    )
    *others, d_sink = gradients
    return *others, None, None, d_sink


@reference("npu::npu_fusion_attention_v3")
def npu_fusion_attention_v3(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    head_num: int,
    input_layout: str,
    pse: Tensor | None = None,
    padding_mask: Tensor | None = None,
    atten_mask: Tensor | None = None,
    scale: float = 1.0,
    keep_prob: float = 1.0,
    pre_tockens: int = UNLIMITED,
    next_tockens: int = UNLIMITED,
    inner_precise: int = 0,
    prefix: list[int] | None = None,
    actual_seq_qlen: Tensor | None = None,
    actual_seq_kvlen: Tensor | None = None,
    sparse_mode: int = 0,
    gen_mask_parallel: bool = True,
    sync: bool = False,
    softmax_layout: str = "",
    sink: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Version 3, which scaled_dot_product_attention runs on this device."""
    cover_only("npu_fusion_attention_v3", padding_mask=padding_mask)
    call = make_call(
        "npu_fusion_attention_v3",
        head_num,
        input_layout,
        pse=pse,
        atten_mask=atten_mask,
        scale=scale,
        keep_prob=keep_prob,
        tokens=(pre_tockens, next_tockens),
        prefix=prefix,
        ends=(actual_seq_qlen, actual_seq_kvlen),
        sparse_mode=sparse_mode,
        softmax_layout=softmax_layout,
        sink=sink,
    )
    out, maximum, total, reserved, seed, offset, _ = forward(call, query, key, value)
    state = torch.tensor([seed, offset], device=query.device)
    return out, maximum, total, reserved, state[:1], state[1:]


@reference("npu::npu_fusion_attention_grad_v3")
def npu_fusion_attention_grad_v3(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dy: Tensor,
    head_num: int,
    input_layout: str,
    *,
    pse: Tensor | None = None,
    padding_mask: Tensor | None = None,
    atten_mask: Tensor | None = None,
    softmax_max: Tensor | None = None,
    softmax_sum: Tensor | None = None,
    softmax_in: Tensor | None = None,
    attention_in: Tensor | None = None,
    scale_value: float = 1.0,
    keep_prob: float = 1.0,
    pre_tockens: int = UNLIMITED,
    next_tockens: int = UNLIMITED,
    inner_precise: int = 0,
    seed: Tensor | None = None,
    offset: Tensor | None = None,
    prefix: list[int] | None = None,
    actual_seq_qlen: Tensor | None = None,
    actual_seq_kvlen: Tensor | None = None,
    sparse_mode: int = 0,
    gen_mask_parallel: bool = True,
    sync: bool = False,
    softmax_layout: str = "",
    sink: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """Gradients of query, key, value, pse, sink for version 3."""
    cover_only("npu_fusion_attention_grad_v3", padding_mask=padding_mask)
    call = make_call(
        "npu_fusion_attention_grad_v3",
        head_num,
        input_layout,
        pse=pse,
        atten_mask=atten_mask,
        scale=scale_value,
        keep_prob=keep_prob,
        tokens=(pre_tockens, next_tockens),
        prefix=prefix,
        ends=(actual_seq_qlen, actual_seq_kvlen),
        sparse_mode=sparse_mode,
        softmax_layout=softmax_layout,
        sink=sink,
    )
    state = (0, 0) if seed is None or offset is None else (int(seed), int(offset))
    keeps = draw_keeps(call, query, key, *state)
    return attend_backward(call, (query, key, value), keeps, (softmax_max, softmax_sum, attention_in), dy)
