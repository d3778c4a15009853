"""What every pair must pass, whoever made it; and the account of those that did not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from portable.core.errors import PortableError
from portable.synth.config import SynthConfig
from portable.synth.duplicate import QuestionIndex
from portable.synth.sentence import fold
from portable.synth.teacher.protocol import Outcome, QaPair


class Gate:
    """Checks lengths and repetition. One gate serves both splits, so no held-out question was seen in
    training.
    """

    def __init__(self, config: SynthConfig) -> None:
        self.config = config
        self._questions = QuestionIndex(config.duplicate_threshold)

    def refusal(self, pair: QaPair) -> str:
        """Return why ``pair`` is turned down, or an empty string if it may stay (and is remembered)."""
        question, answer = pair.question.strip(), pair.answer.strip()
        if not question or not answer:
            return "empty"
        if len(question) > self.config.max_question_chars:
            return "question_too_long"
        if len(answer) < self.config.min_answer_chars:
            return "answer_too_short"
        if len(answer) > self.config.max_answer_chars:
            return "answer_too_long"
        if fold(question).lower() == fold(answer).lower():
            return "answer_repeats_question"
        return "" if self._questions.add(question) else "duplicate_question"


@dataclass(slots=True)
class Ledger:
    """Counts of one split: requested = accepted + rejected + failed, always."""

    requested: int = 0
    accepted: Counter[str] = field(default_factory=Counter)  # by rule
    rejected: Counter[str] = field(default_factory=Counter)  # by reason
    failed: Counter[str] = field(default_factory=Counter)

    def note(self, outcome: Outcome, refusal: str = "") -> None:
        """Count one outcome, and for a pair whether the gate refused it."""
        if outcome.pair is None:
            (self.failed if outcome.failed else self.rejected)[outcome.reason] += 1
        elif refusal:
            self.rejected[refusal] += 1
        else:
            self.accepted[outcome.pair.rule] += 1

    def check(self) -> None:
        """Raise PortableError if a request went missing."""
        counted = self.accepted.total() + self.rejected.total() + self.failed.total()
        if counted != self.requested:
            raise PortableError(
                f"synth lost count: {self.requested} questions were requested, {counted} accounted for; "
                "the teacher must yield questions_per_document outcomes for every document"
            )

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """Return the counts, reasons in alphabetical order."""
        return {
            "requested": self.requested,
            "accepted": self.accepted.total(),
            "rejected": self.rejected.total(),
            "failed": self.failed.total(),
            "accepted_by_rule": dict(sorted(self.accepted.items())),
            "rejected_by_reason": dict(sorted(self.rejected.items())),
            "failed_by_reason": dict(sorted(self.failed.items())),
        }
