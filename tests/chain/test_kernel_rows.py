"""The chain with a backend's own kernels trains as it does with the reference, whose formulas they are."""

from __future__ import annotations

import pytest

from tests.chain.chain import Run
from tests.chain.kernel_pair import (
    PLAIN,
    SEEDS,
    STAGES,
    Pair,
    check_all_steps,
    check_muon,
    check_rollout,
    check_rows,
    run_in_float32,
    run_stages,
)

# What every decoder trains with; a backend that leaves one of them to the reference has lost a row.
TRAINING_OPS = {"rms_norm", "rms_norm__add", "rope__half", "swiglu", "attention", "token_log_probs", "adamw"}


# The ids do not name a backend alone: these are ordinary tests, which stay with their folder and its run.
@pytest.fixture(
    scope="module",
    params=[pytest.param("cpu", id="on_cpu"), pytest.param("sim", id="on_sim", marks=pytest.mark.slow)],
)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def quickstart(backend: str, mini: Run, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The recipe as it stands; with the rows of the CPU it is the mini recipe's own run."""
    hardware, folder = f"hardware={backend}", tmp_path_factory.mktemp("quickstart")
    plain = run_stages(folder / "plain", mini, hardware, PLAIN)
    if backend == "cpu":
        return Pair(backend, {stage: mini.artefact(stage) for stage in STAGES}, plain)
    return Pair(backend, run_stages(folder / "fused", mini, hardware), plain)


@pytest.fixture(scope="module")
def in_float32(backend: str, mini: Run, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    hardware, folder = f"hardware={backend}", tmp_path_factory.mktemp("float32")
    plain = run_in_float32(folder / "plain", mini, hardware, PLAIN)
    return Pair(backend, run_in_float32(folder / "fused", mini, hardware), plain)


@pytest.mark.parametrize("stage", STAGES)
def test_every_row_that_the_backend_has_is_in_use(quickstart: Pair, stage: str) -> None:
    assert check_rows(quickstart, stage) >= TRAINING_OPS


@pytest.mark.parametrize("stage", ["pretrain", "rl"])
def test_in_float32_nothing_is_lost_at_any_step(in_float32: Pair, stage: str) -> None:
    check_all_steps(in_float32, stage)


def test_tuning_loses_nothing_at_any_step(quickstart: Pair) -> None:
    check_all_steps(quickstart, "sft")


def test_with_muon_pretraining_agrees_at_first_and_stays_near(quickstart: Pair) -> None:
    check_muon(quickstart)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_first_rollout_draws_and_teaches_the_same(quickstart: Pair, seed: str) -> None:
    check_rollout(quickstart, seed)
