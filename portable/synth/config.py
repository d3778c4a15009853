"""Settings of the synth stage."""

from dataclasses import dataclass, field

from portable.core.errors import ConfigError
from portable.synth.teacher.config import TeacherConfig


@dataclass(kw_only=True, slots=True)
class SynthConfig:
    """Make question-answer conversations from the corpus folder ``data``.

    Of each split at most ``max_documents`` documents are looked at, drawn by a seeded hash of their ids.
    Lengths are in characters. Two questions whose sets of telling words overlap by ``duplicate_threshold``
    (Jaccard) or more count as one.
    """

    data: str = ""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    max_train: int = 3000
    max_heldout: int = 200
    max_documents: int = 20_000
    max_question_chars: int = 200
    min_answer_chars: int = 2
    max_answer_chars: int = 120
    duplicate_threshold: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (
            ("max_train", self.max_train),
            ("max_heldout", self.max_heldout),
            ("max_documents", self.max_documents),
            ("max_question_chars", self.max_question_chars),
            ("min_answer_chars", self.min_answer_chars),
        ):
            if value < 1:
                raise ConfigError(f"synth.{name}={value}; use at least 1")
        low, high = self.min_answer_chars, self.max_answer_chars
        if high < low:
            raise ConfigError(
                f"synth.max_answer_chars={high} is below min_answer_chars={low}; use at least {low}"
            )
        threshold = self.duplicate_threshold
        if not 0 < threshold <= 1:
            raise ConfigError(f"synth.duplicate_threshold={threshold}; use more than 0 and at most 1")
