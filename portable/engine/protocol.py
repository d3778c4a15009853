"""What an engine must do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from portable.engine.request import Completion, Progress, Request, TokenStep

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


class Session(Protocol):
    """A batch that requests may join and leave while it runs. Used by one thread."""

    @property
    def num_pending(self) -> int:
        """Requests that are not finished."""
        ...

    def add(self, key: int, request: Request) -> None:
        """Queue ``request``; its news carry ``key``. Raises: DataError if the prompt does not fit."""
        ...

    def cancel(self, key: int) -> None:
        """Forget a request."""
        ...

    def step(self) -> list[Progress]:
        """Do one piece of work and return what is new."""
        ...


@runtime_checkable
class SteppingEngine(Protocol):
    """An engine that can batch continuously. Others serve batch by batch (``session.open_session``)."""

    def session(self) -> Session:
        """Open a batch that requests may join and leave while it runs."""
        ...
