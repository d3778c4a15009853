"""From token shards or tokenised rows to micro-batches, in an order that seed and position alone decide.

A position is a global sample index. One optimiser step takes ``micro_batch_size * grad_accum_steps *
world_size`` consecutive samples and deals them to the ranks, so a run that resumes with another number of
ranks but the same product sees the very same samples in the very same steps.

Shapes: B rows, T tokens a row, S segments, D documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from portable.core.errors import ConfigError, DataError
from portable.core.random import derive_seed
from portable.core.record import Batch
from portable.data.shard import TokenShards

Row = TypeVar("Row")
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class BatchShape:
    """How many samples a step takes, and which of them are this rank's."""

    micro_batch_size: int
    grad_accum_steps: int = 1
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        for name, value in (
            ("micro_batch_size", self.micro_batch_size),
            ("grad_accum_steps", self.grad_accum_steps),
        ):
            if value < 1:
                raise ConfigError(f"{name}={value}; use at least 1")
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(
                f"rank={self.rank} does not exist in a world of {self.world_size}; ranks start at 0"
            )

    @property
    def global_batch_size(self) -> int:
        """Samples of one optimiser step over all ranks."""
        return self.micro_batch_size * self.grad_accum_steps * self.world_size

    def samples(self, first: int) -> Iterator[range]:
        """Yield this rank's samples of each micro-batch of the step that starts at sample ``first``."""
        for step in range(self.grad_accum_steps):
            start = first + (step * self.world_size + self.rank) * self.micro_batch_size
            yield range(start, start + self.micro_batch_size)


class PackedTokenSource:
    """Windows of ``seq_len`` tokens over an endless stream of shuffled documents; a ``BatchSource``.

    Each epoch is one permutation of the documents, drawn from ``seed`` and the epoch's number; epochs follow
    each other without a gap, so no token is left out, and a window may span two of them. Neighbouring windows
    share one token: the last target of a window is the first input of the next.

    With ``document_mask`` every document in a window is a segment of its own: positions restart and attention
    stays inside. The end-of-text token before a document opens its segment. Without the mask a window is one
    segment.
    """

    def __init__(
        self,
        shards: TokenShards,
        *,
        seq_len: int,
        shape: BatchShape,
        seed: int = 0,
        document_mask: bool = True,
    ) -> None:
        if seq_len < 1:
            raise ConfigError(f"seq_len={seq_len}; use a positive number of tokens")
        if shards.num_tokens == 0:
            raise DataError(f"the token shards {shards.path} hold no token; give the data stage more text")
        self.shape = shape
        self.seq_len = seq_len
        self.seed = seed
        self.document_mask = document_mask
        self.next_sample = 0
        self._stream = DocumentStream(shards, seed)

    def next_batches(self) -> Sequence[Batch]:
        """Return this rank's micro-batches of the next optimiser step."""
        batches = [self._batch(samples) for samples in self.shape.samples(self.next_sample)]
        self.next_sample += self.shape.global_batch_size
        return batches

    def state_dict(self) -> dict[str, Any]:  # Any: the protocol's type; here all int
        """Return the position and what it is a position in."""
        return {"next_sample": self.next_sample, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position. Raises: ConfigError if it is one in another stream (seed, seq_len or data
        differ).
        """
        check_identity(self._identity(), state)
        self.next_sample = int(state["next_sample"])

    def _identity(self) -> dict[str, int]:
        return {"seed": self.seed, "seq_len": self.seq_len, "num_tokens": self._stream.num_tokens}

    def _batch(self, samples: range) -> Batch:
        rows = [self._stream.window(sample * self.seq_len, self.seq_len + 1) for sample in samples]
        return packed_batch(rows, self.document_mask)


class IndexedSource(Generic[Row]):
    """Epochs over a list of rows, each in an order drawn from ``seed`` and its number; a ``BatchSource``.

    ``collate`` makes a batch of ``micro_batch_size`` rows. Epochs follow each other without a gap: a batch
    may hold the end of one and the start of the next, and no row is left out.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        collate: Callable[[Sequence[Row]], Batch],
        *,
        shape: BatchShape,
        seed: int = 0,
    ) -> None:
        if not rows:
            raise DataError("there is no row to train on; give the stage more data or loosen its filters")
        self.rows = rows
        self.collate = collate
        self.shape = shape
        self.seed = seed
        self.next_sample = 0
        self._orders = _Orders(len(rows), seed)

    def next_batches(self) -> Sequence[Batch]:
        """Return this rank's micro-batches of the next optimiser step."""
        batches = [
            self.collate([self.row_of(sample) for sample in samples])
            for samples in self.shape.samples(self.next_sample)
        ]
        self.next_sample += self.shape.global_batch_size
        return batches

    def row_of(self, sample: int) -> Row:
        """Return the row that stands at a global sample index."""
        epoch, place = divmod(sample, len(self.rows))
        return self.rows[int(self._orders.of(epoch)[place])]

    def state_dict(self) -> dict[str, Any]:  # Any: the protocol's type; here all int
        """Return the position and what it is a position in."""
        return {"next_sample": self.next_sample, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position. Raises: ConfigError if it is one in another list (seed or row count differ)."""
        check_identity(self._identity(), state)
        self.next_sample = int(state["next_sample"])

    def _identity(self) -> dict[str, int]:
        return {"seed": self.seed, "num_rows": len(self.rows)}


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive tokens of a stream; ``starts`` are the places in them where a document begins."""

    ids: IntArray
    starts: list[int]


class _Orders:
    """The permutations of epochs; the two newest are kept, for a window may span two."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self._cache: dict[int, IntArray] = {}

    def of(self, epoch: int) -> IntArray:
        """Return the order of an epoch."""
        if epoch not in self._cache:
            order = np.arange(self.size)
            np.random.Generator(np.random.PCG64(derive_seed(self.seed, "epoch", epoch))).shuffle(order)
            self._cache = {key: value for key, value in self._cache.items() if key == epoch - 1}
            self._cache[epoch] = order
        return self._cache[epoch]


class DocumentStream:
    """The documents of all epochs, end to end; addressed by token position from 0 on without limit."""

    def __init__(self, shards: TokenShards, seed: int) -> None:
        self.shards = shards
        self.num_tokens = shards.num_tokens
        self._orders = _Orders(shards.num_documents, seed)
        self._ends: dict[int, IntArray] = {}

    def window(self, start: int, length: int) -> Window:
        """Return ``length`` tokens from position ``start``."""
        ids = np.empty(length, dtype=np.int64)
        starts: list[int] = []
        filled = 0
        while filled < length:
            epoch, offset = divmod(start + filled, self.num_tokens)
            filled += self._copy_epoch(epoch, offset, ids, filled, starts)
        return Window(ids, starts)

    def _copy_epoch(self, epoch: int, offset: int, ids: IntArray, filled: int, starts: list[int]) -> int:
        """Copy from ``offset`` of one epoch into ``ids[filled:]`` as far as both reach; return the count."""
        order, ends_D = self._orders.of(epoch), self._document_ends(epoch)
        place = int(np.searchsorted(ends_D, offset, side="right"))
        begin = filled
        while filled < len(ids) and place < len(order):
            document = self.shards.document(int(order[place]))
            skip = offset - (int(ends_D[place]) - len(document))
            if skip == 0:
                starts.append(filled)
            piece = document[skip : skip + len(ids) - filled]
            ids[filled : filled + len(piece)] = piece
            filled += len(piece)
            offset += len(piece)
            place += 1
        return filled - begin

    def _document_ends(self, epoch: int) -> IntArray:
        if epoch not in self._ends:
            self._ends = {key: value for key, value in self._ends.items() if key == epoch - 1}
            self._ends[epoch] = np.cumsum(self.shards.token_counts_D[self._orders.of(epoch)])
        return self._ends[epoch]


def packed_batch(rows: Sequence[Window], document_mask: bool) -> Batch:
    """Shift the windows into inputs and targets, and mark where segments begin.

    With ``document_mask`` the end-of-text token before a document opens its segment: it is what the
    document's first token is predicted from, in training as in evaluation, so every target is learnt.
    """
    num_rows, seq_len = len(rows), len(rows[0].ids) - 1
    ids_BT1 = np.stack([row.ids for row in rows])
    position_BT = np.tile(np.arange(seq_len), (num_rows, 1))
    boundaries: list[int] = []
    for number, row in enumerate(rows):
        boundaries.append(number * seq_len)
        if not document_mask:
            continue
        for opening in (start - 1 for start in row.starts if start > 1):
            position_BT[number, opening:] = np.arange(seq_len - opening)
            boundaries.append(number * seq_len + opening)
    boundaries.append(num_rows * seq_len)
    return Batch(
        input_ids_BT=torch.from_numpy(np.ascontiguousarray(ids_BT1[:, :-1])),
        target_ids_BT=torch.from_numpy(np.ascontiguousarray(ids_BT1[:, 1:])),
        loss_weight_BT=torch.ones(num_rows, seq_len),
        position_ids_BT=torch.from_numpy(position_BT),
        cu_seqlens=torch.tensor(boundaries, dtype=torch.int32) if document_mask else None,
    )


def check_identity(own: Mapping[str, Any], state: Mapping[str, Any]) -> None:  # Any: the protocol's type
    """Raise ConfigError unless the position ``state`` is one in the stream that ``own`` identifies."""
    for name, value in own.items():
        if name not in state:
            raise ConfigError(
                f"the checkpoint's data position is one in another kind of data: it has no {name}; resume "
                "with the data of that run (one corpus, or the same mixture), or start in another folder"
            )
        if state[name] != value:
            raise ConfigError(
                f"the checkpoint's data position belongs to {name}={state[name]}, but here {name}={value}; "
                f"resume with {name}={state[name]}, or start a new run in another folder"
            )
