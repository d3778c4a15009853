"""Ranks as workers of a Ray that is started for the run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from portable.core.artefact import open_artefact
from tests.portable.launcher.conftest import corpus, faulty_site
from tests.portable.launcher.support import ENDLESS, family, finish, newest_step, run, start, wait_for

__all__ = ["corpus", "faulty_site"]
pytestmark = pytest.mark.ray
TWO = ("launcher=ray", "launcher.processes=2", "strategy=ddp", "communicator.timeout_s=60")


def workers(pid: int) -> Iterator[psutil.Process]:
    """Yield the processes below ``pid`` that Ray Train has given our command to."""
    for process in family(pid):
        if "RayTrainWorker" in " ".join(process.cmdline()):
            yield process


def test_two_workers_run_to_the_end(corpus: Path, tmp_path: Path):
    output = run(corpus, *TWO, "steps=2", f"output_dir={tmp_path}")
    assert open_artefact(tmp_path, "model", verify=True).summary["steps"] == 2
    assert "2 processes over gloo, layout dp2" in output


def test_a_run_whose_worker_dies_is_started_again_from_its_checkpoint(corpus: Path, tmp_path: Path):
    words = ("steps=200", "checkpoint.every_steps=10", "launcher.max_restarts=1", f"output_dir={tmp_path}")
    process = start(corpus, *TWO, *words)
    wait_for(lambda: newest_step(tmp_path), process)
    os.kill(next(workers(process.pid)).pid, signal.SIGKILL)
    code, output = finish(process)
    assert code == 0, output
    assert open_artefact(tmp_path, "model").summary["steps"] == 200
    assert "continuing from " in (tmp_path / "run.log").read_text()


def test_without_restarts_a_dead_worker_ends_the_run(corpus: Path, tmp_path: Path):
    process = start(corpus, *TWO, *ENDLESS, f"output_dir={tmp_path}")
    wait_for(lambda: newest_step(tmp_path), process)
    os.kill(next(workers(process.pid)).pid, signal.SIGKILL)
    code, output = finish(process)
    assert code == 1, output
    assert "portable: rank " in output


def test_an_error_of_one_rank_is_told_with_its_exit_code(corpus: Path, faulty_site: Path, tmp_path: Path):
    words = (*TWO, "steps=2", "metrics.sinks=[jsonl,fault]", f"output_dir={tmp_path}")
    code, output = finish(start(corpus, *words, variables={"PYTHONPATH": str(faulty_site)}))
    assert code == 2, output
    assert "portable: rank 1: the disk of this rank is empty" in output


def test_a_cluster_that_does_not_answer_is_told(corpus: Path, tmp_path: Path):
    words = (*TWO, "steps=2", "launcher.address=127.0.0.1:1", f"output_dir={tmp_path}")
    code, output = finish(start(corpus, *words))
    assert code == 2, output
    assert "launcher.address=127.0.0.1:1: no Ray cluster answers there" in output
