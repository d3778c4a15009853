"""Attention and its gradient as the chip's fused kernel has them: layouts, masks, row statistics, dropout.

Shapes: B batch, N query heads, G key-value heads, S queries, K keys, D head_dim, T tokens of all sequences.
Dtype: scores and sums in float32, as the chip accumulates; results in the inputs' dtype.
Source: Dao 2023, arXiv:2307.08691, for the gradient from saved row maxima and sums; the documentation of
torch_npu 2.13.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from backends.ascend.emulation.reference.attention_mask import MaskRule
from backends.ascend.emulation.reference.registry import Rejected

_LANES = 8  # the kernel stores each row statistic eight times
_MAX_HEAD_DIM = 768
_MAX_HEADS = 256
_MAX_SEQUENCES = 1024  # packed in one call
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_OFFSETS_PER_CALL = 12
# From (batch, head, token, dim) to a layout and back, where heads have a dim of their own.
_PERMUTATIONS = {"BNSD": (0, 1, 2, 3), "BSND": (0, 2, 1, 3)}


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments that forward and backward share."""

    op: str
    head_num: int
    layout: str
    scale: float
    keep_prob: float
    mask: MaskRule
    pse: Tensor | None
    pse_first: bool  # scale * (q k + pse), rather than scale * q k + pse
    query_ends: list[int] | None
    key_ends: list[int] | None
    softmax_layout: str
    sink: Tensor | None = None  # (N,): one more score of every query, whose value is zero


@dataclass(frozen=True, slots=True)
class Sequence:
    """One attention problem: a batch entry, or one of the packed sequences."""

    query: Tensor  # (N, S, D)
    key: Tensor  # (N, K, D), repeated from G heads
    value: Tensor
    forbidden: Tensor | None
    bias: Tensor | None
    keep: Tensor | None = None  # dropout: 0, or 1 / keep_prob

    def score(self, call: Call) -> Tensor:
        """Return the masked scores (N, S, K); forbidden ones are -inf."""
        scores = self.query @ self.key.mT
        if self.bias is None:
            scores = scores * call.scale
        elif call.pse_first:
            scores = (scores + self.bias.float()) * call.scale
        else:
            scores = scores * call.scale + self.bias.float()
        return scores if self.forbidden is None else scores.masked_fill(self.forbidden, -torch.inf)


def attend(
    call: Call, query: Tensor, key: Tensor, value: Tensor, keeps: list[Tensor] | None
) -> tuple[Tensor, ...]:
    """Return output, row maxima and row sums, in the layouts of the kernel."""
    check_inputs(call, query, key, value)
    outputs, maxima, sums = [], [], []
    for sequence in sequences(call, query, key, value, keeps):
        scores = sequence.score(call)
        # A row without any key gives zeros (the kernel's handling of invalid rows), not NaN.
        maximum = (
            scores.amax(-1, keepdim=True) if scores.shape[-1] else scores.new_zeros(*scores.shape[:-1], 1)
        )
        if call.sink is not None:
            maximum = torch.maximum(maximum, _sink(call))
        weights = (scores - maximum).exp().masked_fill(scores == -torch.inf, 0.0)
        total = weights.sum(-1, keepdim=True)
        if call.sink is not None:
            total = total + (_sink(call) - maximum).exp()
        weights = weights / total.masked_fill(total == 0, 1.0)
        dropped = weights if sequence.keep is None else weights * sequence.keep
        outputs.append((dropped @ sequence.value).to(query.dtype))
        maxima.append(maximum)
        sums.append(total)
    return join(call, outputs), join_statistics(call, maxima), join_statistics(call, sums)


def attend_backward(
    call: Call,
    tensors: tuple[Tensor, Tensor, Tensor],
    keeps: list[Tensor] | None,
    saved: tuple[Tensor | None, Tensor | None, Tensor | None],
    dy: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return the gradients of query, key, value, pse, sink from the saved (row maxima, row sums, output).

    The statistics may be of more keys than are given here: ring attention passes those of all ranks.
    """
    query, key, value = tensors
    check_inputs(call, query, key, value)
    if any(tensor is None for tensor in saved):
        raise Rejected(f"{call.op}: softmax_max, softmax_sum and attention_in of the forward call are needed")
    maxima, sums = (split_statistics(call, x) for x in saved[:2])
    outputs, gradients = split(call, saved[2], call.head_num), split(call, dy, call.head_num)
    results: list[list[Tensor]] = [[], [], [], [], []]
    groups = key_heads(call, query, key)
    pieces = zip(sequences(call, query, key, value, keeps), maxima, sums, outputs, gradients, strict=True)
    for sequence, maximum, total, output, gradient in pieces:
        scores = sequence.score(call)
        weights = (scores - maximum).exp() / total
        weights = weights.masked_fill(scores == -torch.inf, 0.0)
        gradient, output = gradient.float(), output.float()
        d_weights = gradient @ sequence.value.mT
        dropped = weights
        if sequence.keep is not None:
            dropped, d_weights = weights * sequence.keep, d_weights * sequence.keep
        share = (gradient * output).sum(-1, keepdim=True)
        d_scores = weights * (d_weights - share)
        d_products = d_scores * call.scale
        results[0].append(d_products @ sequence.key)
        results[1].append(sum_groups(d_products.mT @ sequence.query, groups))
        results[2].append(sum_groups(dropped.mT @ gradient, groups))
        results[3].append(d_products if call.pse_first else d_scores)
        if call.sink is not None:
            results[4].append(-((_sink(call) - maximum).exp() / total * share).sum((1, 2)))
    d_query, d_key, d_value = (join(call, parts) for parts in results[:3])
    d_pse = (
        None if call.pse is None else torch.stack(results[3]).sum_to_size(call.pse.shape).to(call.pse.dtype)
    )
    d_sink = None if call.sink is None else torch.stack(results[4]).sum(0).to(call.sink.dtype)
    return d_query.to(query.dtype), d_key.to(key.dtype), d_value.to(value.dtype), d_pse, d_sink


def _sink(call: Call) -> Tensor:
    """The sink as (N, 1, 1)."""
    return call.sink.float()[:, None, None]


# Layouts


def check_inputs(call: Call, query: Tensor, key: Tensor, value: Tensor) -> None:
    """Raise Rejected for what the kernel's own checks refuse."""
    if query.dtype not in _DTYPES or not query.dtype == key.dtype == value.dtype:
        raise Rejected(
            f"{call.op}: query, key and value must have one dtype of float16, bfloat16 and float32; "
            f"got {query.dtype}, {key.dtype}, {value.dtype}"
        )
    if call.layout not in ("BSH", "SBH", "BSND", "BNSD", "TND"):
        raise Rejected(f"{call.op}: there is no input_layout={call.layout}; use BSH, SBH, BSND, BNSD or TND")
    if call.layout == "TND" and (call.query_ends is None or call.key_ends is None):
        raise Rejected(
            f"{call.op}: input_layout=TND needs actual_seq_qlen and actual_seq_kvlen (ends, no leading 0)"
        )
    num_heads, head_dim = head_shape(call, query, call.head_num)
    num_groups = key_heads(call, query, key)
    if num_heads != call.head_num or num_groups == 0 or num_heads % num_groups:
        raise Rejected(
            f"{call.op}: head_num={call.head_num} for {num_heads} query heads and {num_groups} key heads; "
            f"query heads must be head_num and a multiple of key heads"
        )
    if not 1 <= head_dim <= _MAX_HEAD_DIM:
        raise Rejected(f"{call.op}: head_dim={head_dim}; the kernel takes 1 to {_MAX_HEAD_DIM}")
    if not 1 <= num_heads <= _MAX_HEADS:
        raise Rejected(f"{call.op}: {num_heads} query heads; the kernel takes 1 to {_MAX_HEADS}")
    if len(call.query_ends or []) > _MAX_SEQUENCES:
        raise Rejected(
            f"{call.op}: {len(call.query_ends or [])} sequences; the kernel takes {_MAX_SEQUENCES}"
        )
    if call.sink is not None and (call.sink.shape != (num_heads,) or call.sink.dtype != torch.float32):
        raise Rejected(
            f"{call.op}: sink {tuple(call.sink.shape)} {call.sink.dtype} must be ({num_heads},) in float32"
        )


def head_shape(call: Call, x: Tensor, num_heads: int) -> tuple[int, int]:
    """Return (number of heads, head_dim) of a tensor in the layout of the call."""
    match call.layout:
        case "BSH" | "SBH":
            return num_heads, x.shape[2] // num_heads
        case "BNSD":
            return x.shape[1], x.shape[3]
        case "BSND":
            return x.shape[2], x.shape[3]
        case _:
            return x.shape[1], x.shape[2]


def key_heads(call: Call, query: Tensor, key: Tensor) -> int:
    """Return the number of key-value heads; in BSH and SBH it follows from the query's head_dim."""
    if call.layout in ("BSH", "SBH"):
        return key.shape[2] // max(1, query.shape[2] // call.head_num)
    return head_shape(call, key, call.head_num)[0]


def split(call: Call, x: Tensor, num_heads: int, ends: list[int] | None = None) -> list[Tensor]:
    """Cut a tensor into (heads, tokens, dim) of each sequence."""
    if call.layout == "TND":
        return [piece.transpose(0, 1) for piece in x.split(lengths(ends or call.query_ends or []))]
    if call.layout == "SBH":
        x = x.transpose(0, 1)
    if call.layout in ("BSH", "SBH"):
        return list(x.unflatten(2, (num_heads, -1)).transpose(1, 2))
    return list(x.permute(_PERMUTATIONS[call.layout]))


def join(call: Call, pieces: list[Tensor]) -> Tensor:
    """Undo ``split``."""
    if call.layout == "TND":
        return torch.cat([piece.transpose(0, 1) for piece in pieces])
    x = torch.stack(pieces)
    if call.layout in _PERMUTATIONS:
        return x.permute(_PERMUTATIONS[call.layout]).contiguous()
    x = x.transpose(1, 2).flatten(2)
    return x.transpose(0, 1).contiguous() if call.layout == "SBH" else x.contiguous()


def lengths(ends: list[int]) -> list[int]:
    """Turn cumulative ends into lengths; trailing zeros stand for entries that take no part."""
    while ends and ends[-1] == 0:
        ends = ends[:-1]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def join_statistics(call: Call, parts: list[Tensor]) -> Tensor:
    """Lay row statistics (N, S, 1) out as the kernel does: eight lanes; packed, each sequence heads first."""
    if call.layout != "TND":
        return torch.stack(parts).expand(-1, -1, -1, _LANES).contiguous()
    wide = [part.expand(-1, -1, _LANES) for part in parts]
    if call.softmax_layout == "TND":
        return torch.cat([part.transpose(0, 1) for part in wide]).contiguous()
    flat = torch.cat([part.flatten(0, 1) for part in wide])
    return flat.reshape(-1, call.head_num, _LANES)  # the shape is (T, N, 8) all the same


def split_statistics(call: Call, x: Tensor) -> list[Tensor]:
    """Undo ``join_statistics``: (N, S, 1) of each sequence."""
    if call.layout != "TND":
        return list(x[..., :1])
    sizes = lengths(call.query_ends or [])
    if call.softmax_layout == "TND":
        return [part.transpose(0, 1)[..., :1] for part in x.split(sizes)]
    flat = x.reshape(-1, _LANES).split([size * call.head_num for size in sizes])
    return [part.unflatten(0, (call.head_num, -1))[..., :1] for part in flat]


def sequences(
    call: Call, query: Tensor, key: Tensor, value: Tensor, keeps: list[Tensor] | None
) -> Iterator[Sequence]:
    """Yield every attention problem of the call."""
    groups = key_heads(call, query, key)
    queries = split(call, query, call.head_num)
    keys, values = (split(call, x, groups, call.key_ends) for x in (key, value))
    for index, (q, k, v) in enumerate(zip(queries, keys, values, strict=True)):
        repeats = q.shape[0] // groups
        yield Sequence(
            query=q.float(),
            key=k.float().repeat_interleave(repeats, 0),
            value=v.float().repeat_interleave(repeats, 0),
            forbidden=call.mask.for_sequence(index, q.shape[1], k.shape[1]),
            bias=None if call.pse is None else call.pse[index if call.pse.shape[0] > 1 else 0],
            keep=None if keeps is None else keeps[index],
        )


def sum_groups(x_NKD: Tensor, num_groups: int) -> Tensor:
    """Add the gradients of the query heads that shared a key-value head."""
    return x_NKD.unflatten(0, (num_groups, -1)).sum(1)


# Dropout


def draw_state(query: Tensor, keep_prob: float) -> tuple[int, int]:
    """Take seed and offset from the device's generator; (0, 0) if nothing is to be dropped."""
    if keep_prob >= 1.0:
        return 0, 0
    generator = torch.npu.default_generators[query.device.index]
    seed, offset = generator.initial_seed(), generator.get_offset()
    generator.set_offset(offset + _OFFSETS_PER_CALL)
    return seed, offset


def draw_keeps(call: Call, query: Tensor, key: Tensor, seed: int, offset: int) -> list[Tensor] | None:
    """Draw the dropout factors of every sequence; the same seed and offset give the same ones."""
    if call.keep_prob >= 1.0:
        return None
    generator = torch.Generator(query.device)
    generator.manual_seed(seed)
    generator.set_offset(offset)
    groups = key_heads(call, query, key)
    shapes = [
        (q.shape[0], q.shape[1], k.shape[1])
        for q, k in zip(
            split(call, query, call.head_num), split(call, key, groups, call.key_ends), strict=True
        )
    ]
    draws = [torch.rand(shape, generator=generator, device=query.device) for shape in shapes]
    return [(draw < call.keep_prob).float() / call.keep_prob for draw in draws]
