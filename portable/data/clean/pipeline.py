"""Documents through ops, in several processes when that pays; the result never depends on how many.

Work travels in chunks, and chunks come back in the order they left.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from multiprocessing import connection
from typing import TypeVar

import numpy as np

from portable.core.record import Document
from portable.data.clean.funnel import StepCount
from portable.data.config import DedupConfig
from portable.data.dedup.exact import content_hash
from portable.data.dedup.minhash import HashArray, band_hashes, shingle_text
from portable.data.op.protocol import DataOp, Rejection

CHUNK_DOCUMENTS = 64
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Kept:
    """A document that passed every op, and what the search for duplicates needs to know of it."""

    document: Document
    content_hash: int
    bands: HashArray


@dataclass(frozen=True, slots=True)
class Dropped:
    """A document, as it was before the op that dropped it."""

    document: Document
    op: str
    reason: str


@dataclass(slots=True)
class ChunkResult:
    """What became of a chunk: outcomes in order, sums for each op, and an example of what each mapper
    changed.
    """

    outcomes: list[Kept | Dropped] = field(default_factory=list)
    counts: dict[str, StepCount] = field(default_factory=dict)
    changed: list[tuple[str, Document]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Processor:
    """The work on a chunk: every op on every document, then hashes of what is left. Travels to the worker
    processes.
    """

    ops: Mapping[str, DataOp]
    dedup: DedupConfig

    def __call__(self, documents: list[Document]) -> ChunkResult:
        """Process a chunk."""
        result = ChunkResult(counts={name: StepCount() for name in self.ops})
        for document in documents:
            result.outcomes.append(self._process(document, result))
        return result

    def _process(self, document: Document, result: ChunkResult) -> Kept | Dropped:
        size = len(document.text.encode())
        for name, op in self.ops.items():
            count = result.counts[name]
            started = time.perf_counter()
            outcome = op(document)
            count.time_s += time.perf_counter() - started
            count.documents_in += 1
            count.bytes_in += size
            if isinstance(outcome, Rejection):
                return Dropped(document, name, outcome.reason)
            if outcome is not document:
                size = len(outcome.text.encode())
                result.changed.append((name, outcome))
                document = outcome
            count.documents_out += 1
            count.bytes_out += size
        bands = np.zeros(0, dtype=np.uint64)
        if self.dedup.minhash:
            shingles = shingle_text(document.text, self.dedup.ngram)
            bands = band_hashes(shingles, self.dedup.num_bands, self.dedup.rows_per_band)
        return Kept(document, content_hash(document.text) if self.dedup.exact else 0, bands)


def map_chunks(
    function: Callable[[list[Item]], Result], items: Iterable[Item], num_workers: int
) -> Iterator[Result]:
    """Yield ``function`` of each chunk of ``items``, in order, computed in ``num_workers`` processes (0: one
    a core).

    At most two chunks a process are under way, so memory does not grow with the input. One worker means this
    process. Work of a single chunk stays here too: starting processes would take longer.
    """
    chunks = _chunked(items)
    head = list(islice(chunks, 2))
    workers = num_workers or os.cpu_count() or 1
    if workers == 1 or len(head) < 2:
        for chunk in chain(head, chunks):
            yield function(chunk)
        return
    # Spawn, not fork: a fork of a process with threads (torch, tokenizers) may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(function,)
    ) as pool:
        under_way: deque[Future[Result]] = deque()
        for chunk in chain(head, chunks):
            under_way.append(pool.submit(_call_function, chunk))
            if len(under_way) > 2 * workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def _chunked(items: Iterable[Item]) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, CHUNK_DOCUMENTS)):
        yield chunk


_function: Callable[..., object] | None = None


def _start_worker(function: Callable[..., object]) -> None:
    global _function  # set once, when a worker process starts
    _function = function
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with_parent, args=(parent.sentinel,), daemon=True).start()


def _end_with_parent(sentinel: int) -> None:
    """Leave when the parent does: after a kill -9 nobody else tells a worker that waits for a chunk."""
    connection.wait([sentinel])
    os._exit(1)


def _call_function(chunk: list[Item]) -> Result:  # pyright: ignore[reportInvalidTypeVarUse]  # the function's
    if _function is None:
        raise RuntimeError("a worker process was started without its function")
    return _function(chunk)  # pyright: ignore[reportReturnType]
