"""Jobs by submitit: on this machine, and through stand-ins of Slurm's commands."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from portable.core.artefact import open_artefact
from tests.portable.launcher import stand_in_slurm
from tests.portable.launcher.support import family, finish, newest_step, run, start, wait_for

TWO = ("-m", "launcher.tasks_per_node=2", "strategy=ddp", "communicator.timeout_s=60")


@pytest.fixture
def slurm(tmp_path: Path) -> Mapping[str, str]:
    """The environment of a login node."""
    stand_in_slurm.install(tmp_path / "bin")
    return {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def test_the_script_that_is_submitted_asks_for_what_the_settings_say(corpus: Path, tmp_path: Path, slurm):
    (tmp_path / "bin/closed").touch()
    words = ("launcher=slurm", "launcher.nodes=3", "launcher.partition=long", "hardware=cuda_h100")
    more = ("launcher.timeout_min=90", "+hydra.launcher.additional_parameters={exclusive: true}", "steps=2")
    sweep = f"hydra.sweep.dir={tmp_path}"
    code, output = finish(start(corpus, *TWO, *words, *more, sweep, variables=slurm))
    assert code != 0
    assert "invalid partition specified" in output
    lines = (tmp_path / "bin/submitted.sh").read_text().splitlines()
    for asked in (
        *("--nodes=3", "--ntasks-per-node=2", "--gres=gpu:2", "--partition=long", "--time=90"),
        *("--signal=USR2@120", "--exclusive", "--job-name=pretrain"),
    ):
        assert f"#SBATCH {asked}" in lines
    assert any(line.startswith("srun ") and "submitit.core._submit" in line for line in lines)


@pytest.mark.slow
def test_a_submitted_job_runs_its_tasks_as_ranks(corpus: Path, tmp_path: Path, slurm):
    words = (*TWO, "launcher=slurm", "steps=2", f"hydra.sweep.dir={tmp_path}/sweep")
    run(corpus, *words, variables=slurm)
    folder = tmp_path / "sweep/0"
    assert open_artefact(folder, "model", verify=True).summary["steps"] == 2
    assert "2 processes over gloo, layout dp2" in (folder / "run.log").read_text()


@pytest.mark.slow
def test_tasks_of_submitit_on_one_machine_are_ranks(corpus: Path, tmp_path: Path):
    run(corpus, *TWO, "launcher=slurm_local", "steps=2", f"hydra.sweep.dir={tmp_path}")
    assert open_artefact(tmp_path / "0", "model", verify=True).summary["steps"] == 2
    assert not (tmp_path / "0/failures").exists()


@pytest.mark.slow
def test_an_error_of_one_rank_reaches_the_terminal_and_the_exit_code(
    corpus: Path, faulty_site: Path, tmp_path: Path
):
    words = (
        *TWO,
        "launcher=slurm_local",
        "steps=2",
        "metrics.sinks=[jsonl,fault]",
        "communicator.timeout_s=20",
    )
    variables = {"PYTHONPATH": str(faulty_site)}
    code, output = finish(start(corpus, *words, f"hydra.sweep.dir={tmp_path}", variables=variables))
    assert code == 2, output
    assert "portable: the job " in output
    assert "rank 1: the disk of this rank is empty" in output


@pytest.mark.slow
def test_a_job_that_is_told_to_go_saves_its_state_and_is_queued_again(corpus: Path, tmp_path: Path):
    words = (
        "steps=300",
        "checkpoint.every_steps=100000",
        "rollback.max_times=1",
        f"hydra.sweep.dir={tmp_path}",
    )
    process = start(corpus, *TWO, "launcher=slurm_local", *words)
    folder = tmp_path / "0"
    wait_for(lambda: (folder / "checkpoints/step-00000000").exists(), process)  # the one to go back to
    for task in family(process.pid):
        if "submitit.core._submit" in task.cmdline():
            task.send_signal(signal.SIGUSR2)
    wait_for(lambda: newest_step(folder) > 0, process)
    assert newest_step(folder) < 300
    code, output = finish(process)
    assert code == 0, output
    assert open_artefact(folder, "model").summary["steps"] == 300
    log = (folder / "run.log").read_text()
    assert log.count("2 processes over gloo") == 2
    assert log.count("continuing from ") == 1
