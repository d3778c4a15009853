"""In a 16-bit format the bars lie between layouts that are right and planted faults."""

from __future__ import annotations

from typing import Any

import pytest

from portable.testing.process import run_processes
from tests.portable.certificate.fault import FAULTS
from tests.portable.certificate.matrix import TWO

RIGHT = [f"right: {name}" for name in TWO]
# A rounding that sends a token to another expert does as much as one that drops it: fp32 tells them apart.
AS_ROUNDING = "an expert's token dropped"
WRONG = [f"fault: {name}" for name, (_, _, where, _) in FAULTS.items() if where and name != AS_ROUNDING]


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("noise")
    return run_processes("tests.bench.certificate_noise:rank", 2, folder, "bf16", "2", timeout_s=400.0)[0]


def _worst(lines: list[dict[str, Any]]) -> float:
    return max(line["difference"] / line["bar"] for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_a_layout_that_is_right_agrees_in_bf16(lines: dict[str, Any], name: str) -> None:
    assert _worst(lines[name]) <= 1.0, lines[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_a_planted_fault_is_found_in_bf16(lines: dict[str, Any], name: str) -> None:
    assert _worst(lines[name]) > 1.5, lines[name]
