"""A launcher restarts a run whose rank died; the run needs nothing but its checkpoints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes import free_port

CASE = "tests.portable.train.checkpoint.case_elastic"


def launch(folder: Path, num_ranks: int, die_after: int, max_restarts: int) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", f"--nproc-per-node={num_ranks}"]
    command += [f"--max-restarts={max_restarts}", f"--master-port={free_port()}", "-m", CASE]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(
        [*command, str(folder), "ddp", str(die_after)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    return json.loads((folder / "report.json").read_text())


@pytest.mark.slow
def test_a_rank_that_dies_is_restarted_by_the_launcher_and_the_result_is_the_same(tmp_path: Path):
    whole = launch(tmp_path / "whole", 2, die_after=0, max_restarts=0)
    again = launch(tmp_path / "again", 2, die_after=14, max_restarts=1)
    assert whole["first"]
    assert not again["first"]
    assert again["began"] in (9, 12)  # the save under way may be lost, the one before it not
    assert again["hash"] == whole["hash"]
