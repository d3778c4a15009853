"""Layouts of one axis on two ranks, and every pair of axes on four, through the certificate."""

from typing import Any

import pytest

from portable.testing.process import run_processes
from tests.portable.certificate.matrix import FOUR, TWO

CASE = "tests.portable.certificate.matrix:certificates"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_processes(CASE, 2, tmp_path_factory.mktemp("two"), "two", timeout_s=400.0)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_processes(CASE, 4, tmp_path_factory.mktemp("four"), "four", timeout_s=600.0)


def _check(reports: list[dict[str, Any]], layout: str) -> None:
    first, *others = (report[layout] for report in reports)
    assert all(other == first for other in others)  # every rank comes to the same verdict
    assert first["agrees"], first["lines"]
    assert first["departure"] == ""  # the search does not blame a module that is right
    assert first["compared"] > 100
    assert len(first["lines"]) == 6


@pytest.mark.slow
@pytest.mark.parametrize("layout", TWO)
def test_an_axis_agrees_with_one_process(two: list[dict[str, Any]], layout: str) -> None:
    _check(two, layout)


@pytest.mark.slow
@pytest.mark.parametrize("layout", FOUR)
def test_a_pair_of_axes_agrees_with_one_process(four: list[dict[str, Any]], layout: str) -> None:
    _check(four, layout)
