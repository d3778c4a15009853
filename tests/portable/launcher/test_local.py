"""Ranks on this machine by ``launcher.processes``: to a good end, and to each of the bad ones."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from portable.core.artefact import open_artefact
from tests.portable.launcher.support import ENDLESS, find, finish, newest_step, run, start, wait_for

TWO = ("launcher.processes=2", "strategy=ddp")


def rank(process: subprocess.Popen[str], number: int) -> int:
    return find(process.pid, "portable", RANK=str(number), TORCHELASTIC_RUN_ID="attempts").pid


def test_two_ranks_run_to_the_end_and_their_words_are_told_apart(corpus: Path, tmp_path: Path):
    output = run(corpus, *TWO, "steps=2", f"hydra.run.dir={tmp_path}/run")
    folder = tmp_path / "run"
    assert open_artefact(folder, "model", verify=True).summary["steps"] == 2
    assert "[rank 0] " in output
    assert "2 processes over gloo, layout dp2" in output
    assert len(list(folder.glob("logs/attempts_*/attempt_0/[01]/stdout.log"))) == 2
    assert not (folder / "failures").exists()


@pytest.mark.slow
def test_an_error_of_one_rank_is_told_with_its_exit_code(corpus: Path, faulty_site: Path, tmp_path: Path):
    words = (*TWO, "steps=2", "metrics.sinks=[jsonl,fault]", f"output_dir={tmp_path}")
    code, output = finish(start(corpus, *words, variables={"PYTHONPATH": str(faulty_site)}))
    assert code == 2, output
    assert "portable: rank 1: the disk of this rank is empty (logs of all ranks: " in output


@pytest.mark.slow
def test_a_rank_that_is_killed_is_named_and_ends_the_others(corpus: Path, tmp_path: Path):
    process = start(corpus, *TWO, *ENDLESS, "launcher.stop_timeout_s=20", f"output_dir={tmp_path}")
    wait_for(lambda: newest_step(tmp_path), process)
    survivor = rank(process, 0)
    os.kill(rank(process, 1), signal.SIGKILL)
    code, output = finish(process)
    assert code == 128 + signal.SIGKILL, output
    assert "portable: rank 1: ended by SIGKILL" in output
    assert not Path(f"/proc/{survivor}").exists()


@pytest.mark.slow
def test_a_rank_that_hangs_is_named_by_the_others_within_the_time_out(corpus: Path, tmp_path: Path):
    words = ("communicator.timeout_s=30", "launcher.stop_timeout_s=1", f"output_dir={tmp_path}")
    process = start(corpus, *TWO, *ENDLESS, *words)
    wait_for(lambda: newest_step(tmp_path), process)
    frozen, survivor = rank(process, 1), rank(process, 0)
    os.kill(frozen, signal.SIGSTOP)
    began = time.monotonic()
    wait_for(lambda: not psutil.pid_exists(survivor), process)
    assert time.monotonic() - began < 30 + 15  # the time-out, and an end on a machine that is busy
    code, output = finish(process)
    assert code == 1, output
    assert "portable: rank 0: " in output
    assert "rank 1 does not answer: it is gone or frozen" in output
    assert not Path(f"/proc/{frozen}").exists()


@pytest.mark.slow
def test_a_run_whose_rank_dies_is_started_again_from_its_checkpoint(corpus: Path, tmp_path: Path):
    words = ("steps=200", "checkpoint.every_steps=10", "launcher.max_restarts=1", f"output_dir={tmp_path}")
    process = start(corpus, *TWO, *words)
    wait_for(lambda: newest_step(tmp_path), process)
    os.kill(rank(process, 1), signal.SIGKILL)
    code, output = finish(process)
    assert code == 0, output
    assert open_artefact(tmp_path, "model").summary["steps"] == 200
    assert len(list(tmp_path.glob("logs/attempts_*/attempt_1/[01]"))) == 2
    assert "continuing from " in (tmp_path / "run.log").read_text()


@pytest.mark.slow
def test_two_four_and_one_ranks_continue_one_run(corpus: Path, tmp_path: Path):
    words = ("steps=200", "checkpoint.every_steps=20", "deterministic=true")
    run(corpus, *words, f"output_dir={tmp_path}/alone")
    folder = tmp_path / "run"
    reached = 0
    for processes in (2, 4):
        more = (f"launcher.processes={processes}", "strategy=fsdp", f"output_dir={folder}")
        process = start(corpus, *words, *more)
        wait_for(lambda: newest_step(folder) > reached, process)  # noqa: B023 - called in this turn
        process.send_signal(signal.SIGTERM)
        code, output = finish(process)
        assert code == 75, output
        assert "stopped by SIGTERM; the same command" in output
        assert "the same command with output_dir=" in output
        reached = newest_step(folder)
        assert reached < 200
    run(corpus, *words, f"output_dir={folder}")
    alone, changed = (load_file(path / "model.safetensors") for path in (tmp_path / "alone", folder))
    for name, tensor in alone.items():
        difference = float((changed[name] - tensor).abs().max() / tensor.abs().max())
        assert difference <= 1e-4, f"{name} differs by {difference:g} of its largest"
