"""What a teacher must do, and what one request to it comes to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from portable.core.record import Document
from portable.core.registry import Registry
from portable.synth.teacher.config import TeacherConfig


@dataclass(frozen=True, slots=True)
class QaPair:
    """A question and an answer that stands in a document: at ``text[start:end]``, in characters.

    ``rule`` says how the pair was made; ``grounding`` is how much of the answer the span accounts for, 1 if
    verbatim (white space aside).
    """

    question: str
    answer: str
    document_id: str
    start: int
    end: int
    rule: str
    grounding: float = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one requested question: a pair, or the reason why there is none.

    ``failed`` tells a request that got no answer (network, server) from an answer that was turned down.
    """

    document_id: str
    pair: QaPair | None = None
    reason: str = ""
    failed: bool = False


class Teacher(Protocol):
    """Asks ``config.questions_per_document`` questions of every document, and accounts for each of them."""

    def prepare(self, documents: Sequence[Document]) -> None:
        """Look over all documents that questions may be asked of, once per split."""
        ...

    def ask(self, documents: Sequence[Document]) -> Iterator[Outcome]:
        """Yield exactly ``questions_per_document`` outcomes for each document, in document order."""
        ...

    def usage(self) -> dict[str, int]:
        """Return counters worth reporting, e.g. calls and tokens; empty where there is nothing to count."""
        ...

    def close(self) -> None:
        """Release connections and files."""
        ...


class TeacherFactory(Protocol):
    """What the registry names: makes a teacher of settings, the run's seed and a folder for its files."""

    def __call__(self, config: TeacherConfig, *, seed: int, cache_dir: Path) -> Teacher:
        """Build it. Raises: ConfigError or BackendUnavailable if it cannot work."""
        ...


TEACHERS = Registry(
    "teacher",
    {
        "extractive": "portable.synth.teacher.extractive:ExtractiveTeacher",
        "openai": "portable.synth.teacher.openai:OpenAiTeacher",
    },
    entry_group="portable.teachers",
)
