"""The first pass: read, run the ops, write what is left to a working file and remember what the second pass
needs.

Texts are never all in memory: of each document only its hashes, its size and its draw for the split stay.

Shapes: D documents left after the ops, K bands.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from portable.core.errors import DataError
from portable.core.random import derive_seed
from portable.core.record import Document
from portable.data.clean.funnel import FunnelStep
from portable.data.clean.pipeline import ChunkResult, Dropped, Kept, Processor, map_chunks
from portable.data.clean.quarantine import QuarantineFile
from portable.data.config import DataConfig
from portable.data.format.corpus import LineWriter
from portable.data.format.reader import read_source
from portable.data.op.protocol import DataOp

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Sifted:
    """The documents left, in reading order, as the search for duplicates and the split see them.

    ``draw_D`` is uniform in [0, 1) and depends on id and seed alone; documents under the held-out fraction
    are held out, whatever the ops, the duplicates or the other documents are.
    """

    path: Path
    content_hash_D: NDArray[np.uint64]
    bands_DK: NDArray[np.uint64]
    num_bytes_D: NDArray[np.int64]
    draw_D: NDArray[np.float64]

    def __len__(self) -> int:
        return self.num_bytes_D.size


def draw_for_split(name: str, seed: int) -> float:
    """Return a document's draw for the split: uniform in [0, 1), from its id and the seed."""
    return derive_seed(seed, "heldout", name) / 2**63


def sift_documents(
    config: DataConfig, ops: Mapping[str, DataOp], quarantine: QuarantineFile, work: Path, rejected: Path
) -> tuple[Sifted, list[FunnelStep]]:
    """Read the source, run ``ops`` and write what is left to a file in ``work``; return it with the funnel's
    steps.

    With ``data.keep_rejected`` what an op drops goes to ``rejected/<op>.jsonl.zst`` with the reason.

    Raises: DataError if the source holds no document, or the ops leave none.
    """
    sifter = _Sifter(config, ops)
    path = work / "sifted.jsonl.zst"
    documents = sifter.watch(read_source(config, quarantine))
    with ExitStack() as stack:
        kept = stack.enter_context(LineWriter(path))
        losers = {
            name: stack.enter_context(LineWriter(rejected / f"{name}.jsonl.zst"))
            for name in (ops if config.keep_rejected else ())
        }
        for result in map_chunks(Processor(ops, config.dedup), documents, config.num_workers):
            sifter.take(result, kept, losers)
    read = sifter.read_step
    read.count.documents_in = read.count.documents_out + quarantine.count
    read.dropped.update({"quarantined": quarantine.count} if quarantine.count else {})
    if read.count.documents_out == 0:
        aside = (
            f"; {quarantine.count} unreadable pieces are listed in {quarantine.path}"
            if quarantine.count
            else ""
        )
        raise DataError(
            f"data.source={config.source} holds no document{aside}; name a source with text in it"
        )
    if not sifter.num_bytes:
        dropped = ", ".join(
            f"{step.op} {dict(step.dropped)}" for step in sifter.op_steps.values() if step.dropped
        )
        raise DataError(
            f"the ops leave none of the {read.count.documents_out} documents of data.source={config.source} "
            f"(dropped by {dropped}); loosen data.ops"
        )
    return sifter.finish(path), [read, *sifter.op_steps.values()]


@dataclass(slots=True)
class _Sifter:
    config: DataConfig
    ops: Mapping[str, DataOp]
    read_step: FunnelStep = field(init=False)
    op_steps: dict[str, FunnelStep] = field(init=False)
    hashes: list[int] = field(default_factory=list)
    bands: list[NDArray[np.uint64]] = field(default_factory=list)
    num_bytes: list[int] = field(default_factory=list)
    draws: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        samples = self.config.num_samples
        self.read_step = FunnelStep("read", "read", samples)
        self.op_steps = {name: FunnelStep(name, op.kind.value, samples) for name, op in self.ops.items()}

    def watch(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Pass documents on, up to the limit, counting them, their bytes and the time that reading takes."""
        count = self.read_step.count
        started = time.perf_counter()
        for document in islice(documents, self.config.max_documents or None):
            size = len(document.text.encode())
            count.documents_out += 1
            count.bytes_in += size
            count.bytes_out += size
            if count.documents_out % 10_000 == 0:
                logger.info("read %d documents", count.documents_out)
            count.time_s += time.perf_counter() - started
            yield document
            started = time.perf_counter()

    def take(self, result: ChunkResult, kept: LineWriter, losers: Mapping[str, LineWriter]) -> None:
        """Write and count the outcomes of a chunk."""
        for name, count in result.counts.items():
            self.op_steps[name].count.add(count)
        for name, document in result.changed:
            self.op_steps[name].sample(document.id, document.text, "changed")
        for outcome in result.outcomes:
            if isinstance(outcome, Kept):
                self._keep(outcome, kept)
            else:
                self._drop(outcome, losers)

    def finish(self, path: Path) -> Sifted:
        """Return what was gathered."""
        return Sifted(
            path,
            np.array(self.hashes, dtype=np.uint64),
            np.stack(self.bands),
            np.array(self.num_bytes, dtype=np.int64),
            np.array(self.draws),
        )

    def _keep(self, outcome: Kept, kept: LineWriter) -> None:
        kept.write_document(outcome.document)
        self.hashes.append(outcome.content_hash)
        self.bands.append(outcome.bands)
        self.num_bytes.append(len(outcome.document.text.encode()))
        self.draws.append(draw_for_split(outcome.document.id, self.config.seed))

    def _drop(self, outcome: Dropped, losers: Mapping[str, LineWriter]) -> None:
        document = outcome.document
        self.op_steps[outcome.op].drop(document, outcome.reason)
        if outcome.op in losers:
            line = {
                "id": document.id,
                "text": document.text,
                "metadata": document.metadata,
                "reason": outcome.reason,
            }
            losers[outcome.op].write(line)
