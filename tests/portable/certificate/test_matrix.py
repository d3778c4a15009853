"""Layouts of one axis on two ranks, and every pair of axes on four, through the certificate."""

from pathlib import Path
from typing import Any

import pytest

from backends.sim.build import build
from portable.testing.process import run_processes
from tests.portable.certificate.matrix import FOUR, HF, TWO, write_configs

CASE = "tests.portable.certificate.matrix:certificates"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_processes(CASE, 2, tmp_path_factory.mktemp("two"), "two", timeout_s=400.0)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_processes(CASE, 4, tmp_path_factory.mktemp("four"), "four", timeout_s=600.0)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("hf")
    write_configs(folder)
    return run_processes(CASE, 4, folder, "hf", str(folder), timeout_s=900.0)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    build()  # the native part, before processes with a time limit need it
    return run_processes(CASE, 4, tmp_path_factory.mktemp("sim"), "four", "", "sim", timeout_s=900.0)


def _check(reports: list[dict[str, Any]], layout: str) -> None:
    first, *others = (report[layout] for report in reports)
    assert all(other == first for other in others)  # every rank comes to the same verdict
    assert first["agrees"], first["lines"]
    assert first["departure"] == ""  # the search does not blame a module that is right
    assert len(first["lines"]) == 6
    assert all(line["compared"] for line in first["lines"])


@pytest.mark.slow
@pytest.mark.parametrize("layout", TWO)
def test_an_axis_agrees_with_one_process(two: list[dict[str, Any]], layout: str) -> None:
    _check(two, layout)
    assert two[0][layout]["compared"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("layout", FOUR)
def test_a_pair_of_axes_agrees_with_one_process(four: list[dict[str, Any]], layout: str) -> None:
    _check(four, layout)
    assert four[0][layout]["compared"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("layout", HF)
def test_a_pair_of_axes_divides_a_model_of_transformers(foreign: list[dict[str, Any]], layout: str) -> None:
    _check(foreign, layout)


@pytest.mark.slow
@pytest.mark.parametrize("layout", FOUR)
def test_a_pair_of_axes_agrees_on_simulated_devices(simulated: list[dict[str, Any]], layout: str) -> None:
    _check(simulated, layout)
