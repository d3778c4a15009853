"""The command line of ``portable trace``; what it finds is tested in ``tests/portable/trace``."""

from pathlib import Path

import pytest

from portable.cli.trace import run_trace
from portable.core.errors import ArtefactError, ConfigError


def test_help_lists_actions_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_trace(["--help"]) == 0
    text = capsys.readouterr().out
    assert "portable trace record VERB" in text
    assert "0 the step agrees, 1 it departs, 2 it cannot be compared" in text


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "does not know ''"),
        (["play"], "does not know 'play'"),
        (["record", "pretrain"], "--out"),
        (["record", "pretrain", "--out", "x", "--stp", "2"], "--stp"),
        (["record", "pretrian", "--out", "x"], "Did you mean 'pretrain'"),
        (["record", "serve", "--out", "x"], "It follows a step of training: pretrain, sft, rl"),
        (["record", "sft", "--out", "x", "--step", "0"], "--step=0; counts begin at 1"),
        (["record", "sft", "--out", "x", "--micro-batch", "-1"], "--micro-batch=-1; counts begin at 1"),
        (["compare"], "file"),
    ],
)
def test_words_that_mean_nothing_are_refused(words: list[str], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_trace(words)
    assert text in str(caught.value)


def test_a_recording_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="does not exist; make one with portable trace record"):
        run_trace(["compare", str(tmp_path / "none")])
