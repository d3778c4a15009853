"""A teacher without a model: rules that ask about documents and answer in their own words."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from portable.core.random import derive_seed
from portable.core.record import Document
from portable.synth.teacher.config import TeacherConfig
from portable.synth.teacher.draft import (
    Draft,
    described_sentence,
    is_reference,
    prose_drafts,
    reference_drafts,
)
from portable.synth.teacher.protocol import Outcome, QaPair

logger = logging.getLogger(__name__)
_RANK = {  # the first five are of pages about one thing, the others of any other text
    "purpose": 0,
    "package": 1,
    "module": 1,
    "signature": 1,
    "reverse": 2,
    "section": 0,
    "definition": 0,
    "cloze": 1,
}


class ExtractiveTeacher:
    """Grounded by construction: an answer is a span of the document. What it asks is only as varied as its
    rules.
    """

    def __init__(self, config: TeacherConfig, *, seed: int, cache_dir: Path) -> None:
        self.config = config
        self.seed = seed
        self._sentence_counts: Counter[str] = Counter()

    def prepare(self, documents: Sequence[Document]) -> None:
        """Count describing sentences, to know which of them name one thing only."""
        self._sentence_counts = Counter(filter(None, map(_described, documents)))

    def ask(self, documents: Sequence[Document]) -> Iterator[Outcome]:
        """Yield pairs by rule, or ``no_rule`` where a document offers fewer than were asked for."""
        for document in documents:
            rng = random.Random(derive_seed(self.seed, "extractive", document.id))
            drafts = self._drafts(document, rng)
            for index in range(self.config.questions_per_document):
                if index < len(drafts):
                    yield Outcome(document.id, _to_pair(document, drafts[index], rng))
                else:
                    yield Outcome(document.id, reason="no_rule")

    def usage(self) -> dict[str, int]:
        """Return nothing: no model is called."""
        return {}

    def close(self) -> None:
        """Do nothing."""

    def _drafts(self, document: Document, rng: random.Random) -> list[Draft]:
        """Return drafts by what they teach, equals in drawn order: what the subject is, facts that its name
        helps to answer, the name itself, what prose says, and last its continuations.
        """
        if is_reference(document):
            unique = self._sentence_counts[_described(document)] == 1
            drafts = reference_drafts(document, sentence_is_unique=unique)
        else:
            drafts = list(prose_drafts(document))
        rng.shuffle(drafts)
        return sorted(drafts, key=lambda draft: _RANK[draft.rule])  # stable


def _described(document: Document) -> str:
    sentence = described_sentence(document)
    return "" if sentence is None else sentence.of(document.text).lower()


def _to_pair(document: Document, draft: Draft, rng: random.Random) -> QaPair:
    answer = draft.answer
    return QaPair(
        question=rng.choice(draft.questions),
        answer=answer.of(document.text),
        document_id=document.id,
        start=answer.start,
        end=answer.end,
        rule=draft.rule,
    )
