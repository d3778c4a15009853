"""A save that fails on one of two ranks ends the run on both, and the checkpoint before it is used."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.portable.train.checkpoint.case_save import FAULTY_STEP, STEPS
from tests.processes import free_port, run_processes, start

CASE = "tests.portable.train.checkpoint.case_save:train"
BEFORE = FAULTY_STEP - 3


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("whole")
    return run_processes(CASE, 2, folder / "results", str(folder))[0]["hash"]


def check_goes_on(folder: Path, undisturbed: str) -> list[str]:
    """Start both ranks again, which must end as if nothing had happened; return what the first logged."""
    ended = run_processes(CASE, 2, folder / "again", str(folder))
    assert [rank["began"] for rank in ended] == [BEFORE, BEFORE]
    assert [rank["hash"] for rank in ended] == [undisturbed, undisturbed]
    assert (folder / "checkpoints" / f"step-{STEPS:08d}").is_dir()
    return ended[0]["told"]


def test_a_rank_that_dies_in_a_save_is_named_and_the_checkpoint_before_it_is_used(
    tmp_path: Path, undisturbed: str
) -> None:
    port, results = free_port(), tmp_path / "results"
    ranks = [start(CASE, (rank, 2, port), results, str(tmp_path), "dies") for rank in range(2)]
    for rank in ranks:
        rank.communicate(timeout=90)  # nobody waits for ever
    assert [rank.returncode for rank in ranks] == [0, -signal.SIGKILL], ranks[0].errors
    left: dict[str, Any] = json.loads((results / "result-0.json").read_text())
    assert left["error"].startswith("CollectiveError")
    assert "rank 1" in left["error"]
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {f"step-{BEFORE:08d}", f".partial-step-{FAULTY_STEP:08d}"}
    told = check_goes_on(tmp_path, undisturbed)
    assert any(f"step-{FAULTY_STEP:08d} was still being written" in line for line in told)
    assert any("continuing from" in line and f"step-{BEFORE:08d}" in line for line in told)


def test_a_disk_that_is_full_under_one_rank_stops_both_and_the_checkpoint_before_it_is_used(
    tmp_path: Path, undisturbed: str
) -> None:
    stopped = run_processes(CASE, 2, tmp_path / "results", str(tmp_path), "full")
    for rank in stopped:
        assert rank["error"].startswith("StorageError")
        assert "the disk is full; free some space" in rank["error"]
    assert stopped[0]["step"] == stopped[1]["step"]
    # Nothing is left that would only fill the disk.
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"step-{BEFORE:08d}"]
    told = check_goes_on(tmp_path, undisturbed)
    assert any("continuing from" in line and f"step-{BEFORE:08d}" in line for line in told)
