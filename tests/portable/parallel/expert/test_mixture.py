"""A decoder with experts learns the same on every axis that experts fold onto, and under every strategy."""

from __future__ import annotations

from typing import Any

import pytest

from tests.portable.parallel.expert.case_mixture import CASES, LOSSES

Reports = list[dict[str, Any]]


@pytest.mark.parametrize("case", CASES[2])
def test_two_ranks_learn_what_one_process_does(pair: Reports, case: str):
    check(pair, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES[4])
def test_four_ranks_learn_what_one_process_does(four: Reports, case: str):
    check(four, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES[8])
def test_eight_ranks_learn_what_one_process_does(eight: Reports, case: str):
    check(eight, case)


def check(reports: Reports, case: str) -> None:
    for report in reports:
        found: dict[str, float] = report["mixture"][case]
        assert found["loss"] <= 4e-7, found  # relative: 2e-6 of a loss near 4
        assert {name for name in found if "experts" in name} == {
            f"blocks.{layer}.mlp.experts.{name}" for layer in (1, 2) for name in ("gate", "up", "down")
        }
        for layer in (1, 2):  # whole numbers, and what they moved
            assert found[f"blocks.{layer}.mlp.load"] == found[f"blocks.{layer}.mlp.bias"] == 0.0, found
        assert all(found[name] <= 2e-6 for name in LOSSES), found
        assert max(found.values()) <= 1e-5, found
