"""The trainer gives the same model whatever lays it out."""

from typing import Any

import numpy as np
import pytest

from portable.testing.process import run_processes
from tests.portable.parallel.case_spread import TWO

CASE = "tests.portable.parallel.case_spread"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_processes(f"{CASE}:alone", 1, tmp_path_factory.mktemp("alone"))[0]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_processes(f"{CASE}:together", 2, tmp_path_factory.mktemp("two"), timeout_s=300.0)


@pytest.mark.parametrize("layout", TWO)
def test_two_ranks_train_what_one_trains(
    alone: dict[str, Any], together: list[dict[str, Any]], layout: str
) -> None:
    expected = alone[TWO[layout][0]]
    for report in together:
        found = report[layout]
        assert found["losses"] == pytest.approx(expected["losses"], abs=2e-6)
        assert found["norms"] == pytest.approx(expected["norms"], rel=1e-5)
        assert found["weights"].keys() == expected["weights"].keys()
        for name, values in expected["weights"].items():
            assert np.abs(np.subtract(found["weights"][name], values)).max() <= 5e-5, name
        assert np.abs(np.subtract(found["scored"], expected["scored"])).max() <= 1e-4
