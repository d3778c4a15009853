"""What an engine must do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from portable.engine.request import Completion, Request, TokenStep

if TYPE_CHECKING:
    from portable.model.tokenizer import Tokenizer


class Engine(Protocol):
    """Generates. One engine serves one model."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        ...

    @property
    def max_seq_len(self) -> int:
        """Longest prompt plus completion, in tokens."""
        ...

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer all requests, in order. Raises: DataError if a prompt does not fit."""
        ...

    def stream(self, request: Request) -> Iterator[TokenStep]:
        """Answer one request token by token."""
        ...
