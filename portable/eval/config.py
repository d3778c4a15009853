"""Settings of the eval stage."""

from dataclasses import dataclass, field

from portable.core.errors import ConfigError


@dataclass(kw_only=True, slots=True)
class EvalConfig:
    """Score every folder of ``models`` (shown name to path) on every one of ``tasks``, in the order written.

    ``bits_per_byte`` reads ``seq_len`` tokens at a time (a model made for less reads less), of the first
    ``num_documents`` held-out documents (0: of all). ``doc_qa`` asks at most ``num_questions`` held-out
    questions, drawn by ``seed``, the same for every model. Of each task with answers, ``num_samples`` prompts
    are kept with what all models answered.
    """

    models: dict[str, str] = field(default_factory=dict)
    corpus: str = ""
    conversations: str = ""
    tasks: list[str] = field(default_factory=lambda: ["bits_per_byte", "doc_qa", "arithmetic"])
    seq_len: int = 256
    num_questions: int = 200
    num_documents: int = 0
    max_new_tokens: int = 40
    arithmetic_num_digits: int = 1
    num_resamples: int = 1000
    num_samples: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.tasks:
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
            if value < least:
                raise ConfigError(f"eval.{name}={value}; use at least {least}")
