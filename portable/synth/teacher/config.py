"""Settings of the teachers."""

from dataclasses import dataclass

from omegaconf import MISSING

from portable.core.errors import ConfigError


@dataclass(kw_only=True, slots=True)
class TeacherConfig:
    """What every teacher has: its registered name, and how many questions it asks of a document."""

    name: str = MISSING
    questions_per_document: int = 2

    def __post_init__(self) -> None:
        count = self.questions_per_document
        if count < 1:
            raise ConfigError(f"teacher.questions_per_document={count}; use at least 1")


@dataclass(kw_only=True, slots=True)
class ExtractiveTeacherConfig(TeacherConfig):
    """Rules that turn a document's own words into answers. No model is asked."""

    name: str = "extractive"


@dataclass(kw_only=True, slots=True)
class OpenAiTeacherConfig(TeacherConfig):
    """Any endpoint that speaks the OpenAI chat API.

    The key is read from the environment variable that ``api_key_env`` names and is never stored; an empty
    name means that the endpoint wants none. ``max_passage_chars`` bounds the part of a document that is
    shown; ``min_grounding`` is the share of an answer (word F1) that one stretch of the passage must account
    for.
    """

    name: str = "openai"
    base_url: str = MISSING
    model: str = MISSING
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 8
    retries: int = 4
    timeout_s: float = 60.0
    temperature: float = 0.0
    max_tokens: int = 512
    json_mode: bool = True
    max_passage_chars: int = 2000
    min_grounding: float = 0.8

    def __post_init__(self) -> None:
        TeacherConfig.__post_init__(self)
        for name, value in (
            ("concurrency", self.concurrency),
            ("max_tokens", self.max_tokens),
            ("max_passage_chars", self.max_passage_chars),
        ):
            if value < 1:
                raise ConfigError(f"teacher.{name}={value}; use at least 1")
        if self.retries < 0:
            raise ConfigError(f"teacher.retries={self.retries}; use 0 or more")
        if not 0 < self.min_grounding <= 1:
            raise ConfigError(f"teacher.min_grounding={self.min_grounding}; use more than 0 and at most 1")
