"""Rows of conversations to batches in which no conversation sees another.

Shapes: B rows, T tokens a row, S segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from portable.core.record import Batch
from portable.sft.mask import Example
from portable.sft.pack import pack_best_fit

Row = tuple[Example, ...]


def to_rows(examples: Sequence[Example], seq_len: int, *, packing: bool) -> list[Row]:
    """Return what the data source deals out: packed rows, or one conversation a row."""
    if not packing:
        return [(example,) for example in examples]
    packed = pack_best_fit([len(example) for example in examples], seq_len)
    return [tuple(examples[index] for index in row) for row in packed]


@dataclass(frozen=True, slots=True)
class Collator:
    """Lays rows side by side: each conversation is a segment with positions from 0, and so is the padding of
    a row.

    ``width`` fixes T, so that every batch has one shape; None takes the longest row of each batch.
    """

    pad_token_id: int
    width: int | None = None

    def __call__(self, rows: Sequence[Row]) -> Batch:
        """Return the batch of ``rows``. Padding is never learnt."""
        width = self.width or max(sum(map(len, row)) for row in rows)
        input_ids_BT = torch.full((len(rows), width), self.pad_token_id, dtype=torch.long)
        target_ids_BT = torch.full((len(rows), width), self.pad_token_id, dtype=torch.long)
        weight_BT = torch.zeros((len(rows), width))
        position_BT = torch.zeros((len(rows), width), dtype=torch.long)
        boundaries = [0]
        for number, row in enumerate(rows):
            start = 0
            for example in row:
                stop = start + len(example)
                input_ids_BT[number, start:stop] = torch.tensor(example.input_ids)
                target_ids_BT[number, start:stop] = torch.tensor(example.target_ids)
                weight_BT[number, start:stop] = torch.tensor(example.learnt, dtype=torch.float32)
                position_BT[number, start:stop] = torch.arange(len(example))
                boundaries.append(number * width + stop)
                start = stop
            if start < width:
                position_BT[number, start:] = torch.arange(width - start)
                boundaries.append((number + 1) * width)
        cu_seqlens = torch.tensor(boundaries, dtype=torch.int32)
        return Batch(input_ids_BT, target_ids_BT, weight_BT, position_BT, cu_seqlens)
