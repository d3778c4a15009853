"""The chat stage: a conversation with a model in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from portable.core.errors import DataError
from portable.core.record import Message
from portable.engine.build import build_engine
from portable.engine.config import EngineConfig
from portable.engine.protocol import Engine
from portable.engine.request import Request, SamplingConfig
from portable.engine.serve_config import ChatConfig
from portable.engine.session import open_session
from portable.model.chat import render_prompt

if TYPE_CHECKING:
    from portable.parallel.runtime import Runtime

_HELP = "/reset starts anew, /quit (or Ctrl-D) ends, Ctrl-C stops an answer"


class Chat:
    """A conversation and its history. ``system`` opens it and survives a reset."""

    def __init__(self, engine: Engine, sampling: SamplingConfig, system: str = "") -> None:
        self.engine = engine
        self.sampling = sampling
        self._opening = [Message("system", system)] if system else []
        self.messages = list(self._opening)
        self._num_turns = 0

    def reset(self) -> None:
        """Forget all turns."""
        self.messages = list(self._opening)

    def ask(self, text: str) -> Iterator[str]:
        """Add a turn and yield the answer piece by piece; what was said when the caller stops is kept.

        Raises: DataError if the conversation no longer fits; the turn is taken back.
        """
        turn = Message("user", text)
        prompt = render_prompt(self.engine.tokenizer, [*self.messages, turn])
        session = open_session(self.engine, max_batch_size=1)
        session.add(0, self._request(prompt))
        answer, is_kept = "", True
        try:
            while session.num_pending:
                for news in session.step():
                    answer += news.text
                    if news.text:
                        yield news.text
        except DataError:
            is_kept = False
            raise
        finally:
            session.cancel(0)
            if is_kept:
                self.messages += [turn, Message("assistant", answer)]

    def _request(self, prompt: list[int]) -> Request:
        # With a seed, every turn still has its own: else equal questions would get equal answers.
        seed = None if self.sampling.seed is None else self.sampling.seed + self._num_turns
        self._num_turns += 1
        return Request(
            prompt_ids=tuple(prompt),
            sampling=replace(self.sampling, seed=seed),
            stop_token_ids=self.engine.tokenizer.stop_token_ids,
        )


def run_chat(config: ChatConfig, runtime: Runtime, engine: EngineConfig) -> None:
    """Answer ``config.prompt`` and end, or talk until the user leaves."""
    console = Console(highlight=False)
    chat = Chat(build_engine(Path(config.model_path), engine, runtime), config.sampling, config.system)
    if config.prompt:
        _say(chat, config.prompt, console)
        return
    console.print(f"[dim]{_HELP}[/dim]")
    talk(chat, console, lambda: console.input("[bold cyan]you>[/bold cyan] "))


def talk(chat: Chat, console: Console, read: Callable[[], str]) -> None:
    """Read and answer lines until ``/quit`` or the end of input."""
    while True:
        try:
            line = read().strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if line == "/quit":
            return
        if line == "/reset":
            chat.reset()
            console.print("[dim]forgotten[/dim]")
        elif line.startswith("/"):
            console.print(f"[dim]{_HELP}[/dim]")
        elif line:
            _try_to_say(chat, line, console)


def _try_to_say(chat: Chat, line: str, console: Console) -> None:
    try:
        _say(chat, line, console)
    except DataError as error:
        console.print(f"{error}; /reset makes room", style="red", markup=False)
    except KeyboardInterrupt:
        console.print(" [dim](stopped)[/dim]")


def _say(chat: Chat, line: str, console: Console) -> None:
    for piece in chat.ask(line):
        console.print(piece, end="", markup=False, soft_wrap=True)
    console.print()
