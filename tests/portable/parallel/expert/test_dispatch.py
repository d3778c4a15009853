"""Experts that ranks share compute what one process computes that holds them all."""

from __future__ import annotations

from typing import Any

import pytest

from tests.portable.parallel.expert.case_dispatch import LAYOUTS, LOADS

NARROW = ("bf16", "autocast")
PARAMETERS = ("gate", "up", "down")
Reports = list[dict[str, Any]]


@pytest.fixture(scope="module", params=["pair", "simulated_pair"])
def two(request: pytest.FixtureRequest) -> Reports:
    reports = [report["dispatch"] for report in request.getfixturevalue(request.param)]
    device = {"pair": "cpu", "simulated_pair": "sim"}[request.param]
    assert {report["device"] for report in reports} == {device}
    return reports


@pytest.mark.parametrize("load", [name for name in LOADS if name not in ("odd_sizes", "autocast")])
def test_two_ranks_are_one_process_to_the_bit(two: Reports, load: str):
    for report in two:
        assert not any(report["ep2"][load].values()), report["ep2"][load]


def test_widths_that_are_no_whole_vectors_differ_by_rounding(two: Reports):
    assert all(value <= 1e-6 for report in two for value in report["ep2"]["odd_sizes"].values())


def test_autocast_rounds_the_gradients_that_travel(two: Reports):
    for report in two:
        found = dict(report["ep2"]["autocast"])
        assert 0.0 < found.pop("dx") < 2**-8
        assert not any(found.values())


@pytest.mark.slow
@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("layout", LAYOUTS[4])
def test_four_ranks_are_one_process(four: Reports, layout: str, load: str):
    bar = 1e-2 if load in NARROW else 1e-6  # gradients of the same experts are added in their own format
    for report in four:
        found = report["dispatch"][layout][load]
        assert all(found[key] <= bar for key in (*PARAMETERS, "dx")), found
        assert all(found[key] <= 1e-6 for key in ("out", "dweights")), found
        if layout.startswith("ep4") and load not in ("odd_sizes", "autocast"):
            assert not any(found.values()), found


@pytest.mark.parametrize(
    ("load", "dtype"), [("even", "float32"), ("bf16", "bfloat16"), ("autocast", "bfloat16")]
)
def test_only_rows_of_other_ranks_travel_in_the_format_of_the_matmuls(two: Reports, load: str, dtype: str):
    for report in two:
        found = report["traffic"][load]
        there, back = [dtype, found["leaving"]], [dtype, found["arriving"]]
        assert found["sent"] == [there, back, there, back]
