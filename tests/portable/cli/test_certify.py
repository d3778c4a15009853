"""The words of ``portable verify parallel``; what it finds is tested in ``tests/portable/certificate``."""

import pytest

from portable.cli.verify import run_verify
from portable.core.errors import ConfigError


def test_help_tells_options_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verify(["parallel", "--help"]) == 0
    text = capsys.readouterr().out
    assert "portable verify parallel [OVERRIDES]" in text
    assert "0 the layout agrees, 1 it departs, 2 it cannot be" in text


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--stpes", "2"], "--stpes"),
        (["--steps", "0"], "--steps=0"),
        (["hardware=cpu"], "one process, which agrees with itself"),
        (["parallel.tp=3"], "does not divide"),
        (["parallel.tp=2", "--world", "3"], "must be one of"),
        (["parallel.ep=2", "strategy=ddp"], "the model has no experts"),
        (["strategy=hsdp", "parallel.dp=1"], "strategy=hsdp"),
    ],
)
def test_what_cannot_be_is_refused_before_a_process_starts(words: list[str], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_verify(["parallel", "model=quickstart_mini", *words])
    assert text in str(caught.value)
