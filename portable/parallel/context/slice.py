"""This rank's tokens of a batch. Shapes: B rows, T tokens a row, S segments."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from portable.core.errors import ShapeError
from portable.core.record import Batch
from portable.parallel.context.order import TokenOrder

AnyBatch = TypeVar("AnyBatch", bound=Batch)


def slice_batch(batch: AnyBatch, order: TokenOrder, rank: int, padded: int) -> AnyBatch:
    """Return the tokens of ``batch`` that ``rank`` holds; bounds of segments stay those of all tokens.

    Rows are filled up to ``padded`` tokens with zeros: they have no weight, and nobody looks ahead to them.

    Raises: ShapeError if a tensor other than the bounds is not (B, T), or if a segment spans rows.
    """
    num_rows, length = batch.input_ids_BT.shape
    bounds = batch.cu_seqlens

    def cut(tensor: Tensor) -> Tensor:
        if tensor is bounds:
            return tensor
        if tensor.shape != (num_rows, length):
            raise ShapeError(
                f"a batch of {num_rows} × {length} tokens holds a tensor of shape {tuple(tensor.shape)}; "
                "context parallelism deals out tensors with a value for every token"
            )
        return order.part(fill_up(tensor, padded), rank)

    cut_batch = batch.map(cut)
    if bounds is None:
        return cut_batch
    return replace(cut_batch, cu_seqlens=stretch_bounds(bounds, num_rows, length, padded))


def fill_up(tensor: Tensor, length: int, value: int = 0) -> Tensor:
    """Return (B, ``length``), the new tokens at the end of each row being ``value``."""
    missing = length - tensor.shape[1]
    return F.pad(tensor, (0, missing), value=value) if missing else tensor


def stretch_bounds(cu_seqlens: Tensor, num_rows: int, length: int, padded: int) -> Tensor:
    """Return the bounds over rows that have been filled up; the last segment of a row takes what is new.

    Shapes: (S + 1,) over B · ``length`` tokens; returns (S + 1,) over B · ``padded``.
    Raises: ShapeError if a segment spans rows: a rank holds parts of each, and their order would be lost.
    """
    starts_B = torch.arange(num_rows, device=cu_seqlens.device) * length
    if num_rows > 1 and not bool(torch.isin(starts_B, cu_seqlens).all()):
        raise ShapeError(
            f"a segment spans two of the {num_rows} rows of {length} tokens; under context parallelism a "
            "segment must lie in one row: let cu_seqlens name the start of each row, or use one row"
        )
    return cu_seqlens // length * padded + cu_seqlens % length
