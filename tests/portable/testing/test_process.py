"""Processes that form a group, started for a test."""

import os
from pathlib import Path

import pytest

from portable.testing.process import run_processes


def place(word: str) -> list[str]:
    return [word, *(os.environ.get(name, "") for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))]


def fail_on_the_last(message: str) -> None:
    if os.environ["RANK"] == "1":
        raise ValueError(message)


def test_results_come_in_rank_order(tmp_path: Path) -> None:
    results = run_processes("tests.portable.testing.test_process:place", 2, tmp_path, "word")
    assert results == [["word", "0", "0", "2"], ["word", "1", "1", "2"]]


def test_one_process_is_alone(tmp_path: Path) -> None:
    assert run_processes("tests.portable.testing.test_process:place", 1, tmp_path, "word")[0][3] == ""


def test_a_failed_rank_fails_the_test_and_is_named(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"rank 1 ended with 1(.|\n)*ValueError: too late"):
        run_processes("tests.portable.testing.test_process:fail_on_the_last", 2, tmp_path, "too late")
