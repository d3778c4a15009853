"""Whatever number of ranks, of rows and of accumulated batches goes on, every sample is read once, in its
step.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.portable.train.checkpoint.case_position import STEPS, make_corpora, read, samples_in_order
from tests.processes import run_processes

CASE = "tests.portable.train.checkpoint.case_position:read"
# (ranks, strategy, micro_batch_size, the step that it ends at), one after the other
SMALL = [(2, "ddp", 2, 4), (1, "single", 8, 6), (2, "fsdp", 1, STEPS)]
LARGE = [(4, "zero1", 2, 4), (2, "fsdp", 8, 6), (4, "ddp", 1, STEPS)]


def in_turn(folder: Path, kind: str, parts: list[tuple[int, str, int, int]]) -> list[list[list[int]]]:
    """Let each part go on where the newest checkpoint stands; return the samples of every step."""
    steps: list[list[list[int]]] = []
    for number, (ranks, strategy, micro_batch_size, until) in enumerate(parts):
        words = (str(folder), kind, strategy, str(micro_batch_size), str(until))
        reports: list[dict[str, Any]] = (
            run_processes(CASE, ranks, folder / f"{kind}-{number}", *words) if ranks > 1 else [read(*words)]
        )
        assert {report["began"] for report in reports} == {len(steps)}
        for own in zip(*(report["steps"] for report in reports), strict=True):
            steps.append([row for rank in own for row in rank])
        if until == 4:  # as if the run had been killed in the save: a step's samples must be read again
            shutil.rmtree(folder / kind / "checkpoints" / "step-00000004")
            steps.pop()
    return steps


def check(folder: Path, kind: str, parts: list[tuple[int, str, int, int]]) -> None:
    make_corpora(folder)
    expected = samples_in_order(folder, kind)
    found = in_turn(folder, kind, parts)
    assert [sorted(rows) for rows in found] == [sorted(rows) for rows in expected]
    everything = [tuple(row) for rows in expected for row in rows]
    assert len(set(everything)) == len(everything)  # or a sample could stand for another


def test_a_run_goes_on_with_other_ranks_and_rows_and_reads_each_sample_once(tmp_path: Path) -> None:
    check(tmp_path, "corpus", SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["corpus", "mixture"])
def test_from_four_ranks_to_two_and_back(tmp_path: Path, kind: str) -> None:
    check(tmp_path, kind, LARGE)
