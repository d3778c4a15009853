"""An engine that says what it is told; the tiny model of the engine tests is part of ``portable.testing``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from portable.engine.request import Completion, Request, TokenStep
from portable.engine.sequence import check_fits, complete
from portable.model.tokenizer import Tokenizer
from portable.testing.engine.tiny import ask, make_model_config, make_tokenizer, plain_log_probs
from portable.testing.runtime import make_runtime

__all__ = [
    "ScriptedEngine",
    "ask",
    "make_model_config",
    "make_runtime",
    "make_tokenizer",
    "plain_log_probs",
]


class ScriptedEngine:
    """Answers every prompt with the tokens of one text. It can only ``generate``: no continuous batching."""

    def __init__(self, tokenizer: Tokenizer, text: str, *, ends: bool = True) -> None:
        self.tokenizer = tokenizer
        self.max_seq_len = 64
        self.ids = tokenizer.encode(text) + ([tokenizer.eos_token_id] if ends else [])
        self.batches: list[list[Request]] = []

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.batches.append(list(requests))
        for request in requests:
            check_fits(request, self.max_seq_len, self.tokenizer.vocab_size)
        steps = [TokenStep(token, -0.5, ((token, -0.5), (0, -2.0))) for token in self.ids]
        return [complete(self.tokenizer, request, steps, "length") for request in requests]

    def stream(self, request: Request) -> Iterator[TokenStep]:
        return iter(self.generate([request])[0].steps)
