from pathlib import Path

import pytest

from portable.testing.process import run_processes

CASES = "tests.portable.parallel.tensor.case_line"


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_model_divided_in_a_line_computes_what_the_whole_one_does(size: int, tmp_path: Path) -> None:
    for report in run_processes(f"{CASES}:run", size, tmp_path, str(size)):
        for case, distances in report.items():
            _check(case, distances)


def test_experts_over_their_own_axis_take_tokens_that_stay_divided(tmp_path: Path) -> None:
    for distances in run_processes(f"{CASES}:run_experts", 2, tmp_path):
        _check("experts", distances)


def test_what_cannot_be_divided_or_filled_up_is_refused(tmp_path: Path) -> None:
    for words in run_processes(f"{CASES}:refusals", 2, tmp_path):
        assert "no rule for the parameter 'extra.weight'" in words["no rule"]
        assert "cache of keys and values must see whole" in words["cache"]
        assert "rows of 7 tokens are no multiple" in words["experts, odd rows"]
        assert words["meta"] == words["host"]


def _check(case: str, distances: dict[str, float]) -> None:
    worst = {name: distance for name, distance in distances.items() if distance > 1e-5}
    assert not worst, (case, worst)
    assert distances["log_probs"] < 5e-6, case
