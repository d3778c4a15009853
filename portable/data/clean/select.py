"""The second pass: which documents are held out, which are said twice, and so which go where.

The split comes first and by document. Then duplicates go, held-out documents standing first in line: of a
cluster that holds one, that one stays and everything like it leaves the training text.

Shapes: D documents, K bands.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from portable.core.errors import DataError
from portable.data.clean.funnel import FunnelStep
from portable.data.clean.sift import Sifted
from portable.data.config import DataConfig, DedupConfig
from portable.data.dedup.cluster import candidate_pairs, cluster_roots, first_of_equal
from portable.data.dedup.minhash import HashArray, jaccard, shingle_text
from portable.data.format.corpus import LineWriter, read_documents

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Loss:
    """Why a document leaves: the step, and the number of the document that stays instead of it."""

    op: str
    reason: str
    kept: int


@dataclass(frozen=True, slots=True)
class Selection:
    """Fate of every sifted document: held out or not, and the losses by number."""

    heldout_D: BoolArray
    losses: Mapping[int, Loss]
    steps: list[FunnelStep]


def choose_heldout(draw_D: NDArray[np.float64], fraction: float) -> BoolArray:
    """Return which documents are held out: those whose draw lies under ``fraction``, and at least one.

    Raises: DataError if there is only one document, which cannot be on both sides.
    """
    heldout_D = draw_D < fraction
    if fraction == 0 or heldout_D.any():
        return heldout_D
    if draw_D.size < 2:
        raise DataError(
            f"data.heldout_fraction={fraction} cannot be held out: only one document is left, and the split "
            "is by document; give more (one a file, or one a line of JSONL), or set data.heldout_fraction=0"
        )
    heldout_D[np.argmin(draw_D)] = True
    return heldout_D


def select_documents(sifted: Sifted, config: DataConfig) -> Selection:
    """Split, then find exact and near duplicates.

    Raises: DataError if nothing is left to train on.
    """
    started = time.perf_counter()
    heldout_D = choose_heldout(sifted.draw_D, config.heldout_fraction)
    split = FunnelStep("heldout_split", "split", config.num_samples)
    split.count.time_s = time.perf_counter() - started
    # Held-out documents first, each side in reading order: "the first of its kind stays" then does it.
    line_D = np.argsort(~heldout_D, kind="stable")
    losses: dict[int, Loss] = {}
    steps = [split]
    if config.dedup.exact:
        started = time.perf_counter()
        firsts = first_of_equal(sifted.content_hash_D[line_D])
        losses |= _losses("exact_dedup", "duplicate", line_D, firsts, heldout_D)
        steps.append(FunnelStep("exact_dedup", "dedup", config.num_samples))
        steps[-1].count.time_s = time.perf_counter() - started
    if config.dedup.minhash:
        started = time.perf_counter()
        line = line_D[[number not in losses for number in line_D.tolist()]]
        firsts = _near_firsts(sifted, line, config.dedup)
        losses |= _losses("near_dedup", "near_duplicate", line, firsts, heldout_D)
        steps.append(FunnelStep("near_dedup", "dedup", config.num_samples))
        steps[-1].count.time_s = time.perf_counter() - started
    if not any(number not in losses for number in np.flatnonzero(~heldout_D).tolist()):
        raise DataError(
            f"no document is left to train on: of {len(sifted)}, {int(heldout_D.sum())} are held out and the "
            "rest repeats them; give more documents, or lower data.heldout_fraction"
        )
    return Selection(heldout_D, losses, steps)


def write_selection(sifted: Sifted, selection: Selection, train: LineWriter, heldout: LineWriter) -> None:
    """Send every document where it belongs, and count the steps of the selection."""
    by_op = {step.op: step for step in selection.steps}
    for number, document in enumerate(read_documents(sifted.path)):
        loss = selection.losses.get(number)
        if loss is not None:
            by_op[loss.op].drop(document, loss.reason)
        elif selection.heldout_D[number]:
            heldout.write_document(document)
        else:
            train.write_document(document)
    documents, num_bytes = len(sifted), int(sifted.num_bytes_D.sum())
    for step in selection.steps:
        step.count.documents_in, step.count.bytes_in = documents, num_bytes
        gone = [number for number, loss in selection.losses.items() if loss.op == step.op]
        documents -= len(gone)
        num_bytes -= int(sifted.num_bytes_D[gone].sum())
        step.count.documents_out, step.count.bytes_out = documents, num_bytes


def _losses(op: str, reason: str, line: IntArray, firsts: IntArray, heldout_D: BoolArray) -> dict[int, Loss]:
    """Return the losses among the documents in ``line``, where ``firsts`` are places in it."""
    losses: dict[int, Loss] = {}
    for place, first in enumerate(firsts.tolist()):
        if place != first:
            number, kept = int(line[place]), int(line[first])
            leaked = heldout_D[kept] and not heldout_D[number]
            losses[number] = Loss(op, f"{reason}_of_heldout" if leaked else reason, kept)
    return losses


def _near_firsts(sifted: Sifted, line: IntArray, config: DedupConfig) -> IntArray:
    pairs = candidate_pairs(sifted.bands_DK[line])
    if config.min_jaccard == 0:
        return cluster_roots(line.size, pairs, lambda left, right: True)
    shingles = _shingles_of(sifted, np.unique(line[pairs]).tolist(), config.ngram)

    def alike(left: int, right: int) -> bool:
        return jaccard(shingles[int(line[left])], shingles[int(line[right])]) >= config.min_jaccard

    return cluster_roots(line.size, pairs, alike)


def _shingles_of(sifted: Sifted, numbers: Iterable[int], ngram: int) -> dict[int, HashArray]:
    """Read candidates' texts once more and return their shingles."""
    wanted = frozenset(numbers)
    return {
        number: shingle_text(document.text, ngram)
        for number, document in enumerate(read_documents(sifted.path))
        if number in wanted
    }
