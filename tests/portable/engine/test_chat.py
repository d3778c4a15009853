"""The terminal chat: history, commands, one-shot answers."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from portable.core.errors import DataError
from portable.core.record import Message
from portable.engine.chat import Chat, run_chat, talk
from portable.engine.config import NativeEngineConfig
from portable.engine.request import SamplingConfig
from portable.engine.serve_config import ChatConfig
from portable.model.chat import render_prompt
from portable.model.tokenizer import Tokenizer
from portable.parallel.runtime import Runtime
from tests.portable.engine.support import ScriptedEngine


@pytest.fixture
def scripted(tokenizer: Tokenizer) -> ScriptedEngine:
    return ScriptedEngine(tokenizer, "the fox")


def make_chat(scripted: ScriptedEngine, system: str = "", **settings: int) -> Chat:
    return Chat(scripted, SamplingConfig(max_new_tokens=20, **settings), system)


def converse(chat: Chat, *lines: str) -> str:
    """Type lines, then end the input; return what the terminal shows."""
    screen = io.StringIO()
    typed: Iterator[str] = iter(lines)

    def read() -> str:
        for line in typed:
            return line
        raise EOFError

    talk(chat, Console(file=screen, width=200), read)
    return screen.getvalue()


def test_the_answer_comes_in_pieces_and_joins_the_history(scripted: ScriptedEngine) -> None:
    chat = make_chat(scripted)
    pieces = list(chat.ask("hello"))
    assert len(pieces) > 1
    assert "".join(pieces) == "the fox"
    assert chat.messages == [Message("user", "hello"), Message("assistant", "the fox")]


def test_the_next_prompt_holds_the_whole_conversation(scripted: ScriptedEngine) -> None:
    chat = make_chat(scripted, system="be a fox")
    list(chat.ask("one"))
    list(chat.ask("two"))
    turns = [
        Message("system", "be a fox"),
        Message("user", "one"),
        Message("assistant", "the fox"),
        Message("user", "two"),
    ]
    assert list(scripted.batches[1][0].prompt_ids) == render_prompt(scripted.tokenizer, turns)


def test_reset_forgets_all_but_the_system_turn(scripted: ScriptedEngine) -> None:
    chat = make_chat(scripted, system="be a fox")
    list(chat.ask("one"))
    chat.reset()
    assert chat.messages == [Message("system", "be a fox")]


def test_every_turn_has_a_seed_of_its_own(scripted: ScriptedEngine) -> None:
    chat = make_chat(scripted, seed=5)
    list(chat.ask("one"))
    list(chat.ask("one"))
    assert [batch[0].sampling.seed for batch in scripted.batches] == [5, 6]


def test_an_answer_that_is_broken_off_is_kept_as_far_as_it_came(scripted: ScriptedEngine) -> None:
    chat = make_chat(scripted)
    answer = chat.ask("hello")
    first = next(answer)
    answer.close()
    assert chat.messages[0] == Message("user", "hello")
    assert chat.messages[1].content.startswith(first)


def test_a_turn_that_does_not_fit_is_taken_back(scripted: ScriptedEngine) -> None:
    chat = make_chat(scripted)
    with pytest.raises(DataError, match="at most 64"):
        list(chat.ask("the lazy dog " * 40))
    assert chat.messages == []


def test_commands(scripted: ScriptedEngine) -> None:
    chat = make_chat(scripted)
    shown = converse(chat, "hello", "", "/help", "/reset", "again", "/quit", "never read")
    assert shown.count("the fox") == 2
    assert "/quit" in shown
    assert "forgotten" in shown
    assert chat.messages == [Message("user", "again"), Message("assistant", "the fox")]


def test_a_conversation_that_grew_too_long_says_so_and_goes_on(scripted: ScriptedEngine) -> None:
    shown = converse(make_chat(scripted), "dog " * 100, "hello")
    assert "/reset makes room" in shown
    assert "the fox" in shown


def test_markup_in_an_answer_is_shown_as_it_is(tokenizer: Tokenizer) -> None:
    shown = converse(make_chat(ScriptedEngine(tokenizer, "[bold]x[/bold]")), "hello")
    assert "[bold]x[/bold]" in shown


def test_one_shot_prints_the_answer_and_ends(
    model_dir: Path, runtime: Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    sampling = SamplingConfig(max_new_tokens=8, temperature=0)
    run_chat(
        ChatConfig(model_path=str(model_dir), prompt="hi", sampling=sampling), runtime, NativeEngineConfig()
    )
    first = capsys.readouterr().out
    run_chat(
        ChatConfig(model_path=str(model_dir), prompt="hi", sampling=sampling), runtime, NativeEngineConfig()
    )
    assert capsys.readouterr().out == first
    assert len(first.strip()) > 0


def test_talking_reads_the_terminal_until_its_end(
    model_dir: Path, runtime: Runtime, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("/help\n/quit\n"))
    run_chat(ChatConfig(model_path=str(model_dir)), runtime, NativeEngineConfig())
    assert capsys.readouterr().out.count("/reset") == 2
