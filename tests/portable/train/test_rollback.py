"""Going back to the last checkpoint when a step goes wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from portable.core.errors import ConfigError
from portable.core.record import Batch
from portable.parallel.objective import LossSum
from portable.train.config import CheckpointConfig, RollbackConfig
from portable.train.next_token import next_token_loss
from portable.train.rollback import DivergedError, LossWatch
from portable.train.trainer import Trainer
from tests.portable.train.support import (
    RowSource,
    TinyModel,
    make_runtime,
    rows_to_batch,
    train_config,
    weights_hash,
    workspace,
)


class RecordingSource(RowSource):
    """Remembers which rows every call handed out."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.handed: list[int] = []

    def next_batches(self) -> list[Batch]:
        self.handed.append(self.next_row)
        return super().next_batches()


class Recorder:
    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float | None]]] = []

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        self.rows.append((step, dict(values)))

    def close(self) -> None:
        pass


BAD_ROW = rows_to_batch([7]).input_ids_BT


def poisoned(by: float):
    """An objective whose loss is ``by`` times the true one for row 7 alone."""

    def objective(model: torch.nn.Module, batch: Batch) -> LossSum:
        factor = by if torch.equal(batch.input_ids_BT, BAD_ROW) else 1.0
        return LossSum(next_token_loss(model, batch).loss * factor)

    return objective


def trainer(folder: Path, by: float = math.nan, steps: int = 12, **rollback: float) -> Trainer:
    config = train_config(
        steps,
        checkpoint=CheckpointConfig(every_steps=3, keep=9),
        rollback=RollbackConfig(**{"max_times": 1, "window": 3, "spike_stds": 50.0} | rollback),
    )
    source, space = RecordingSource(), workspace(folder, Recorder())
    return Trainer(TinyModel(), poisoned(by), source, config, make_runtime(), space)


@pytest.mark.parametrize("by", [math.nan, math.inf, 1000.0], ids=["nan", "inf", "spike"])
def test_a_bad_step_costs_the_samples_since_the_checkpoint_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, by: float
):
    run = trainer(tmp_path, by)
    run.fit()
    # Row 7 is step 8's, the checkpoint before it step 6's: rows 6 and 7 are left out, and step 7 has row 8.
    assert run.source.handed == [*range(8), 6, 7, *range(8, 14)]
    assert run.step == 12
    assert all(torch.isfinite(parameter).all() for parameter in run.module.parameters())
    rows = run.workspace.metrics.rows
    assert [values for _, values in rows if "rollbacks" in values] == [
        {"rollbacks": 1, "rollback_from_step": 8}
    ]
    assert "step 8: the loss is" in caplog.text
    assert "went back to step 6 and left out the samples of 2 steps (rollback 1 of at most 1)" in caplog.text


def test_the_result_is_that_of_a_run_that_never_saw_those_samples(tmp_path: Path):
    class Skipping(RecordingSource):
        def next_batches(self) -> list[Batch]:
            if self.next_row == 6:
                self.next_row = 8
            return super().next_batches()

    run = trainer(tmp_path / "back")
    run.fit()
    config, space = train_config(12), workspace(tmp_path / "never")
    clean = Trainer(TinyModel(), next_token_loss, Skipping(), config, make_runtime(), space)
    clean.fit()
    assert weights_hash(run.module.state_dict()) == weights_hash(clean.module.state_dict())


def test_a_bad_first_step_goes_back_to_the_beginning(tmp_path: Path):
    run = trainer(tmp_path)
    run.source.next_row = 7
    run.fit()
    assert run.source.handed == [7, 7, *range(8, 20)]
    assert run.step == 12


def test_it_goes_back_no_more_often_than_allowed(tmp_path: Path):
    class Again(RecordingSource):
        def next_batches(self) -> list[Batch]:
            super().next_batches()
            return [rows_to_batch([7])]

    run = trainer(tmp_path, max_times=2)
    run.source = run._checkpointer.source = Again()
    with pytest.raises(DivergedError, match="step 1: the loss is nan"):
        run.fit()
    assert run.source.handed == [0, 0, 1, 0, 1, 2]  # what was left out once stays left out
    assert [v["rollbacks"] for _, v in run.workspace.metrics.rows if "rollbacks" in v] == [1, 2]


def test_without_it_a_spike_passes_and_a_nan_ends_the_run(tmp_path: Path):
    run = trainer(tmp_path / "spike", 1000.0, max_times=0)
    run.fit()
    assert run.source.handed == list(range(12))
    assert not (tmp_path / "spike" / "checkpoints" / "step-00000000").exists()
    with pytest.raises(DivergedError, match="step 8"):
        trainer(tmp_path / "nan", max_times=0).fit()


def test_a_run_that_resumes_after_going_back_ends_with_the_same_weights(tmp_path: Path):
    whole = trainer(tmp_path / "whole")
    whole.fit()
    cut = trainer(tmp_path / "cut")
    cut._after_step = _stop_at(cut, 10)
    with pytest.raises(KeyboardInterrupt):
        cut.fit()
    manifest = json.loads((tmp_path / "cut/checkpoints/step-00000009/manifest.json").read_text())
    assert manifest["data"] == {"next_row": 11}
    again = trainer(tmp_path / "cut")
    again.fit()
    assert again.source.handed == [11, 12, 13]
    assert again._loss_watch.num_rollbacks == 1
    assert weights_hash(again.module.state_dict()) == weights_hash(whole.module.state_dict())


def _stop_at(run: Trainer, step: int):
    real = run._after_step

    def after(advance) -> None:
        real(advance)
        if run.step == step:
            raise KeyboardInterrupt

    return after


def judged(losses: list[float], **config: float) -> tuple[int, str] | None:
    watch = LossWatch(RollbackConfig(**{"max_times": 1, "window": 4, "spike_stds": 3.0} | config))
    return watch.first_offence(1, [(loss, 1.0) for loss in losses])


def test_a_spike_is_judged_by_a_full_window_of_losses_before_it():
    assert judged([2.0, 2.2, 1.8, 90.0]) is None
    assert judged([2.0, 2.2, 1.8, 2.0, 2.4]) is None  # mean 2, deviation 0.141: 2.42 is allowed
    assert judged([2.0, 2.2, 1.8, 2.0, 2.5]) == (5, "the loss is 2.5, after a mean of 2 over 4 steps")
    assert judged([2.0, 2.2, 1.8, 2.0, -9.0]) is None  # falling is no harm
    assert judged([2.0, 2.0, 2.0, 2.0, 2.05]) is None  # nor is a rounding above a constant
    assert judged([2.0, 2.2, 1.8, 2.0, 90.0], spike_stds=0.0) is None


def test_the_window_moves():
    assert judged([9.0, 9.0, 9.0, 9.0, 2.0, 2.0, 2.0, 2.0, 3.0]) == (
        9,
        "the loss is 3, after a mean of 2 over 4 steps",
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"max_times": -1}, r"rollback.max_times=-1; use 0"),
        ({"spike_stds": -0.5}, r"rollback.spike_stds=-0.5; use 0"),
        ({"window": 1}, r"rollback.window=1; a deviation needs at least 2"),
    ],
)
def test_settings_without_a_meaning_are_refused(changes: dict[str, float], told: str):
    with pytest.raises(ConfigError, match=told):
        RollbackConfig(**changes)


def test_steps_that_were_left_out_are_not_judged():
    rows = [(math.inf, 0.0), (math.inf, 1.0)]
    assert LossWatch(RollbackConfig()).first_offence(5, rows, [True, True]) is None
    step, _ = LossWatch(RollbackConfig()).first_offence(5, rows, [True, False]) or (0, "")
    assert step == 6
