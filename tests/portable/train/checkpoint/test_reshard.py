"""A checkpoint of any layout is the same state in any other, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.portable.train.checkpoint import case_reshard
from tests.portable.train.checkpoint.case_reshard import DATA_ONLY, FOUR, TWO
from tests.processes import run_processes

CASE = "tests.portable.train.checkpoint.case_reshard:reshard"


@pytest.fixture(scope="module", params=["tiny", "decoder"])
def two(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp(request.param)
    report = run_processes(CASE, 2, folder / "results", str(folder), request.param)[0]
    return request.param, folder, report


def test_every_layout_of_two_ranks_reads_every_other(two: tuple[str, Path, dict[str, Any]]):
    kind, _, report = two
    assert report["saved"].keys() == (DATA_ONLY if kind == "tiny" else TWO).keys()
    assert report["differing"] == {}


def test_one_process_reads_the_checkpoints_of_two(two: tuple[str, Path, dict[str, Any]]):
    kind, folder, report = two
    for writer, saved in report["saved"].items():
        assert case_reshard.read_alone(folder / writer, kind) == saved, writer
    if kind == "tiny":
        assert saved["buffer/bias"] == "[7.0, 7.0, 7.0]"
        assert "optimizer/head.weight/exp_avg_sq" in saved
        assert "optimizer/blocks.0.inner.weight/momentum_buffer" in saved
    else:  # or the layouts would be one under many names
        assert report["cuts"] == {
            "ddp": [],
            "zero1": ["shard"],
            "zero2": ["shard"],
            "zero3": ["shard"],
            "tp2": ["tp"],
            "pp2": ["pp"],
        }


@pytest.mark.slow
def test_every_layout_of_four_ranks_reads_every_other(tmp_path: Path):
    report = run_processes(CASE, 4, tmp_path / "results", str(tmp_path), "decoder", timeout_s=600)[0]
    assert report["saved"].keys() == FOUR.keys()
    assert report["differing"] == {}
    assert report["cuts"]["tp2 x pp2"] == ["pp", "tp"]
    assert "shard" in report["cuts"]["hsdp"]
