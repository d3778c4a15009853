"""Settings of the eval stage."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from portable.core.errors import ConfigError


@dataclass(kw_only=True, slots=True)
class EvalConfig:
    """Score every folder of ``models`` (shown name to path) on every one of ``tasks``, in the order written.

    ``seq_len`` is what ``bits_per_byte`` reads at a time (a model made for less reads less). ``num_questions`` bounds the held-out questions of ``doc_qa``, and ``num_documents`` the documents of
    ``bits_per_byte`` (0 takes all); both are drawn by ``seed``, the same for every model. ``num_samples`` prompts of each
    task are kept with all models' answers.
    """

    models: dict[str, str] = MISSING
    corpus: str = MISSING
    conversations: str = MISSING
    tasks: list[str] = field(default_factory=lambda: ["bits_per_byte", "doc_qa", "arithmetic"])
    seq_len: int = 256
    num_questions: int = 200
    num_documents: int = 0
    max_new_tokens: int = 48
    arithmetic_num_digits: int = 1
    num_resamples: int = 1000
    num_samples: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.models, dict) and not self.models:
            raise ConfigError("eval.models={} names no model; use e.g. eval.models={base: runs/pretrain/latest}")
        if isinstance(self.tasks, list) and not self.tasks:
            raise ConfigError("eval.tasks=[] asks for nothing; use e.g. eval.tasks=[doc_qa]")
        for name, value, least in (
            ("seq_len", self.seq_len, 1),
            ("num_questions", self.num_questions, 1),
            ("num_documents", self.num_documents, 0),
            ("max_new_tokens", self.max_new_tokens, 1),
            ("arithmetic_num_digits", self.arithmetic_num_digits, 1),
            ("num_resamples", self.num_resamples, 1),
            ("num_samples", self.num_samples, 0),
        ):
            if isinstance(value, int) and value < least:
                raise ConfigError(f"eval.{name}={value}; use at least {least}")
