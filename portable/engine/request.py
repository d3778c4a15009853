"""What is asked of an engine and what comes back.

Token ids in, token ids out: text is never re-tokenised on the way.
"""

from dataclasses import dataclass, field

from portable.core.errors import ConfigError


@dataclass(kw_only=True, slots=True)
class SamplingConfig:
    """How tokens are drawn. ``temperature=0`` is greedy; ``top_k=0`` and ``top_p=1`` switch the cuts off."""

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"sampling.max_new_tokens={self.max_new_tokens}; use at least 1")
        if self.temperature < 0:
            raise ConfigError(
                f"sampling.temperature={self.temperature}; use 0 for greedy, or a positive number"
            )
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"sampling.top_p={self.top_p}; use more than 0 and at most 1")
        if self.top_k < 0:
            raise ConfigError(f"sampling.top_k={self.top_k}; use 0 for all tokens, or a positive number")


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One prompt. A request with a seed gives the same tokens whatever else is in the batch.

    ``stop`` are strings that end the text (not included in it); ``stop_token_ids`` end it and are kept in the
    ids. ``num_top_log_probs`` asks for the best alternatives at each position.
    """

    prompt_ids: tuple[int, ...]
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    num_top_log_probs: int = 0


@dataclass(frozen=True, slots=True)
class TokenStep:
    """One generated token of one request.

    ``log_prob`` is under the distribution that was sampled from: after temperature, before top-k and top-p; a
    greedy token reports temperature 1. ``top`` are (token id, log prob), best first.
    """

    token_id: int
    log_prob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """News of one request of a session: a token, the text it made certain, on the last token why it ended."""

    key: int
    step: TokenStep
    text: str
    finish_reason: str | None


@dataclass(frozen=True, slots=True)
class Completion:
    """What one request produced. ``finish_reason`` is stop or length."""

    steps: tuple[TokenStep, ...]
    text: str
    finish_reason: str

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The generated ids, a stop token included."""
        return tuple(step.token_id for step in self.steps)

    @property
    def log_probs(self) -> tuple[float, ...]:
        """One per generated id."""
        return tuple(step.log_prob for step in self.steps)
