"""Rows to learn from, made from their own numbers: several documents each, unequal counts of learnt targets.

Shapes: B rows, T tokens a row, S segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from portable.certificate.shrink import Trial
from portable.core.random import derive_seed
from portable.core.record import Batch


class Rows:
    """Reader ``reader`` of ``readers`` takes its micro-batches of every step; one reader takes those of all,
    in the order of the readers.
    """

    def __init__(self, trial: Trial, reader: int, readers: int, all_readers: int) -> None:
        self.trial = trial
        self.step = 0
        count = trial.num_micro_batches * (all_readers // readers)
        self._own = range(reader * count, (reader + 1) * count)
        self._a_step = trial.num_micro_batches * all_readers

    def next_batches(self) -> list[Batch]:
        """Return the micro-batches of the next step."""
        first = self.step * self._a_step
        self.step += 1
        return [self.batch(first + place) for place in self._own]

    def batch(self, number: int) -> Batch:
        """Return a micro-batch by its number among all."""
        rows = self.trial.rows
        return make_batch(
            range(number * rows, (number + 1) * rows), self.trial.seq_len, self.trial.model.vocab_size
        )

    def state_dict(self) -> dict[str, Any]:  # Any: as the protocol says
        """Return the position."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # Any: as in state_dict
        """Go to a position."""
        self.step = state["step"]


def make_batch(samples: Sequence[int], seq_len: int, vocab_size: int) -> Batch:
    """Return rows by their numbers, each of one or two documents.

    1 to 5 of every 5 targets are learnt, and of the last 4 of every 16 rows none: a micro-batch, or all that
    a reader has in a step, may be without a target.
    """
    ids, weights, positions, bounds = [], [], [], [0]
    for place, sample in enumerate(samples):
        stream = torch.Generator().manual_seed(derive_seed(0, "certificate", sample))
        ids.append(torch.randint(vocab_size, (seq_len + 1,), generator=stream))
        learnt = torch.arange(seq_len) % 5 <= sample % 5
        weights.append(learnt.float() * (sample % 16 < 12))
        border = sample * 7 % seq_len
        positions.append(torch.cat([torch.arange(border), torch.arange(seq_len - border)]))
        bounds += [place * seq_len + border] * bool(border) + [(place + 1) * seq_len]
    both = torch.stack(ids)
    return Batch(
        both[:, :-1].contiguous(),
        both[:, 1:].contiguous(),
        torch.stack(weights),
        torch.stack(positions),
        torch.tensor(bounds, dtype=torch.int32),
    )
