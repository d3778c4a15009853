"""Optimisers on several ranks: Muon that takes turns, 8-bit moments of sharded parameters."""

from typing import Any

import pytest

from portable.testing.process import run_processes
from tests.portable.train.optim.case_ranks import train_8bit
from tests.portable.train.support import make_runtime

CASE = "tests.portable.train.optim.case_ranks"


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    return run_processes(f"{CASE}:two_ranks", 2, folder, str(folder / "run"))


def test_matrices_in_parts_are_updated_as_wholes(two_ranks: list[dict[str, Any]]):
    for report in two_ranks:
        assert max(report["muon"]) < 2e-6


def test_8_bit_moments_of_shards_come_back_to_the_bit(two_ranks: list[dict[str, Any]]):
    assert [report["adamw8bit"] for report in two_ranks] == [{"same": True, "step": 5}] * 2


def test_8_bit_moments_come_back_to_the_bit(tmp_path):
    assert train_8bit(tmp_path, make_runtime()) == {"same": True, "step": 5}


@pytest.mark.slow
def test_matrices_that_two_axes_cut_are_updated_as_wholes(tmp_path):
    for report in run_processes(f"{CASE}:four_ranks", 4, tmp_path):
        assert max(report) < 2e-6
