"""The synth stage: documents in, grounded question-answer conversations out."""

from __future__ import annotations

import heapq
import json
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from portable.core.artefact import Artefact, open_artefact, seal
from portable.core.errors import DataError
from portable.core.random import derive_seed
from portable.core.record import Conversation, Document, Message
from portable.core.storage import write_json, write_text
from portable.core.workspace import Workspace
from portable.data.format.corpus import read_documents
from portable.synth.config import SynthConfig
from portable.synth.gate import Gate, Ledger
from portable.synth.teacher.protocol import TEACHERS, QaPair, Teacher

logger = logging.getLogger(__name__)
_NUM_SAMPLES = 20


def run_synth(config: SynthConfig, workspace: Workspace) -> Artefact:
    """Ask the teacher about the corpus and seal the conversations.

    Held-out conversations come from held-out documents only, so nothing they ask was in any training text. A
    second call starts over; what a model teacher already answered comes from its cache.
    Raises: DataError if a split ends up without a single pair.
    """
    corpus = open_artefact(Path(config.data), "corpus")
    teacher: Teacher = TEACHERS.get(config.teacher.name)(
        config.teacher, seed=config.seed, cache_dir=workspace.dir / "cache"
    )
    gate = Gate(config)
    summary: dict[str, Any] = {"teacher": config.teacher.name}  # Any: JSON values
    samples: list[dict[str, Any]] = []
    try:
        for split, limit in (("train", config.max_train), ("heldout", config.max_heldout)):
            file = corpus.path / "documents" / f"{split}.jsonl.zst"
            documents = draw_documents(read_documents(file), config.max_documents, config.seed)
            pairs, ledger = collect_pairs(
                teacher, documents, limit, gate, config.teacher.questions_per_document
            )
            _check_not_empty(pairs, split, ledger)
            conversations = [
                _to_conversation(pair, split, n, config.teacher.name) for n, pair in enumerate(pairs)
            ]
            _write_jsonl(
                workspace.dir / "conversations" / f"{split}.jsonl", [c.to_json() for c in conversations]
            )
            samples += [{"split": split, **item.to_json()} for item in conversations[:_NUM_SAMPLES]]
            summary[split] = {"documents": len(documents), **ledger.to_json()}
            logger.info("%s: %d of %d requested pairs accepted", split, len(pairs), ledger.requested)
        write_json(workspace.dir / "usage.json", teacher.usage())
    finally:
        teacher.close()
    write_json(workspace.dir / "summary.json", summary)
    write_json(workspace.dir / "samples.json", samples)
    return seal(workspace.dir, "conversations", ["conversations"], _seal_summary(summary))


def collect_pairs(
    teacher: Teacher, documents: Sequence[Document], limit: int, gate: Gate, questions_per_document: int
) -> tuple[list[QaPair], Ledger]:
    """Ask in rounds until ``limit`` pairs are accepted or the documents are used up.

    A round asks of just as many documents as could fill what is missing: which documents are asked depends on
    the replies alone, not on how many requests are under way at a time.
    """
    teacher.prepare(documents)
    pairs: list[QaPair] = []
    ledger = Ledger()
    place = 0
    while len(pairs) < limit and place < len(documents):
        chunk = documents[place : place + math.ceil((limit - len(pairs)) / questions_per_document)]
        place += len(chunk)
        ledger.requested += len(chunk) * questions_per_document
        for outcome in teacher.ask(chunk):
            refusal = ""
            if outcome.pair is not None:
                refusal = gate.refusal(outcome.pair) if len(pairs) < limit else "limit_reached"
                if not refusal:
                    pairs.append(outcome.pair)
            ledger.note(outcome, refusal)
    ledger.check()
    return pairs, ledger


def draw_documents(documents: Iterator[Document], limit: int, seed: int) -> list[Document]:
    """Return at most ``limit`` documents in the order of a seeded hash of their ids, whatever order they came
    in.
    """
    return heapq.nsmallest(limit, documents, key=lambda doc: (derive_seed(seed, "document", doc.id), doc.id))


def _to_conversation(pair: QaPair, split: str, number: int, teacher: str) -> Conversation:
    turns = (Message("user", pair.question), Message("assistant", pair.answer))
    origin = {
        "document_id": pair.document_id,
        "start": pair.start,
        "end": pair.end,
        "rule": pair.rule,
        "grounding": pair.grounding,
        "teacher": teacher,
    }
    return Conversation(turns, f"{split}-{number:06d}", origin)


def _write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> None:  # Any: JSON values
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows))


def _check_not_empty(pairs: Sequence[QaPair], split: str, ledger: Ledger) -> None:
    if not pairs:
        counts = ledger.to_json()
        raise DataError(
            f"synth made no {split} pair out of {counts['requested']} requested "
            f"(rejected: {counts['rejected_by_reason']}, failed: {counts['failed_by_reason']}); "
            "give the data stage more text, raise data.heldout_fraction if the held-out split is empty, "
            "or loosen synth's bounds"
        )


def _seal_summary(summary: dict[str, Any]) -> dict[str, Any]:  # Any: JSON values
    """Return the few numbers that the record of a job shows."""
    totals = {
        name: summary["train"][name] + summary["heldout"][name]
        for name in ("requested", "accepted", "rejected", "failed")
    }
    return {
        "teacher": summary["teacher"],
        "train": summary["train"]["accepted"],
        "heldout": summary["heldout"]["accepted"],
        **totals,
    }
