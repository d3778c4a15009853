"""DeepSpeed's stages over context and tensor parallelism train what one process trains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from portable.testing.process import run_processes
from tests.portable.parallel.strategies.deepspeed.case_layout import FOUR, TWO

pytest.importorskip("deepspeed", reason="strategy=deepspeed needs the package")
CASE = "tests.portable.parallel.strategies.deepspeed.case_layout:run"
Reports = list[dict[str, Any]]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_processes("tests.portable.parallel.case_spread:alone", 1, tmp_path_factory.mktemp("alone"))[0]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    return run_processes(CASE, 2, tmp_path_factory.mktemp("two"), timeout_s=400.0)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    return run_processes(CASE, 4, tmp_path_factory.mktemp("four"), timeout_s=600.0)


@pytest.mark.parametrize("layout", TWO)
def test_two_ranks_train_what_one_trains(alone: dict[str, Any], two: Reports, layout: str) -> None:
    _check(alone[TWO[layout][0]], two, layout)


@pytest.mark.slow
@pytest.mark.parametrize("layout", FOUR)
def test_four_ranks_train_what_one_trains(alone: dict[str, Any], four: Reports, layout: str) -> None:
    _check(alone[FOUR[layout][0]], four, layout)


def test_axes_that_the_engine_does_not_know_are_refused(two: Reports) -> None:
    for report in two:
        assert "the layout is dp2 × ep2; leave ep at 1" in report["experts"]
        assert "the layout is pp2; leave pp at 1" in report["stages"]


def _check(expected: dict[str, Any], reports: Reports, name: str) -> None:
    for report in reports:
        found = report[name]
        assert found["losses"] == pytest.approx(expected["losses"], abs=2e-6)
        assert found["norms"] == pytest.approx(expected["norms"], rel=1e-5)
        assert found["weights"].keys() == expected["weights"].keys()
        for parameter, values in expected["weights"].items():
            assert np.abs(np.subtract(found["weights"][parameter], values)).max() <= 5e-5, parameter
        assert np.abs(np.subtract(found["scored"], expected["scored"])).max() <= 1e-4
