import pytest

from portable.train.progress import progress_bar


def test_nothing_is_drawn_unless_asked_for(capsys: pytest.CaptureFixture[str]):
    with progress_bar("training", 0, 3, show=False) as advance:
        advance(1.0)
    assert capsys.readouterr().out == ""


def test_the_bar_counts_steps_and_shows_the_loss(terminal: pytest.CaptureFixture[str]):
    with progress_bar("training", 2, 4, show=True) as advance:
        advance(1.25)
        advance(None)
    drawn = terminal.readouterr().out
    assert "4/4" in drawn
    assert "1.250" in drawn
