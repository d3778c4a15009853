"""One command, two kinds of hardware: the simulated accelerator computes what the CPU computes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.chain.chain import TIMEOUT_S, UNTIMED, Run, command, environment

TRAINED = ("pretrain", "sft", "rl")


@pytest.fixture(scope="module")
def both(mini: Run, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Both jobs of ``-m hardware=cpu,sim``; the first finds everything made."""
    sweep = tmp_path_factory.mktemp("sweep")
    words = ["run", "-m", "recipe=quickstart_mini", "hardware=cpu,sim", UNTIMED, f"store={mini.store}"]
    done = subprocess.run(
        command(*words, f"hydra.sweep.dir={sweep}"),
        capture_output=True,
        text=True,
        cwd=sweep,
        env=environment(),
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [Run(sweep / str(number), mini.store, done.stdout) for number in range(2)]


def losses(run: Run, stage: str) -> list[float]:
    files = sorted(run.artefact(stage).rglob("metrics.jsonl"))
    assert files
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_the_chip_trains_for_itself(both: list[Run], mini: Run):
    on_cpu, on_sim = both
    assert set(on_cpu.reused) == set(mini.digests)
    assert not set(TRAINED) & set(on_sim.reused)
    for stage in TRAINED:
        record = json.loads((on_sim.artefact(stage) / "runtime.json").read_text())
        assert record["backend"] == "sim"
        assert record["capability"]["communicator"] == "simccl"


@pytest.mark.parametrize("stage", TRAINED)
def test_loss_curves_agree(both: list[Run], stage: str):
    on_cpu, on_sim = (losses(run, stage) for run in both)
    assert len(on_cpu) > 5
    assert on_sim == pytest.approx(on_cpu, abs=1e-5)


def test_the_results_are_the_same_to_the_bit(both: list[Run]):
    on_cpu, on_sim = both
    assert on_sim.digests == on_cpu.digests


def test_a_job_that_fails_is_told_and_the_others_run(mini: Run, tmp_path: Path):
    words = ["run", "-m", "recipe=quickstart_mini", "hardware=cuda_h100,cpu", UNTIMED, f"store={mini.store}"]
    done = subprocess.run(
        command(*words, f"hydra.sweep.dir={tmp_path}"),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(),
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 2
    assert "hardware=cuda_h100 cannot be used on this machine" in done.stderr
    assert "the job recipe=quickstart_mini hardware=cuda_h100" in done.stderr
    assert (tmp_path / "1" / "report.html").is_file()
