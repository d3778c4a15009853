"""The loop: its laws first, then what it records, when it evaluates, and how it fails."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from portable.collective.local import LocalGroup
from portable.core.errors import CollectiveError, DataError
from portable.core.record import Batch
from portable.device.protocol import Dtype
from portable.hardware.spec import Figure, HardwareConfig
from portable.parallel.config import PrecisionConfig
from portable.parallel.objective import LossSum
from portable.train.config import MuonConfig, TrainConfig
from portable.train.next_token import next_token_loss
from portable.train.trainer import DivergedError, StepResult, Trainer
from tests.portable.train.support import (
    RowSource,
    TinyModel,
    make_runtime,
    rows_to_batch,
    train_config,
    weights_hash,
    workspace,
)
from tests.processes import run_processes


class Recorder:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float | None]]] = []

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        self.rows.append((step, dict(values)))

    def close(self) -> None:
        pass

    def steps(self) -> list[tuple[int, dict[str, float | None]]]:
        """The rows of training steps; checkpoints and evaluations record their own."""
        return [(step, values) for step, values in self.rows if "loss" in values]


def make_trainer(path: Path, config: TrainConfig, **changes: Any) -> Trainer:
    parts: dict[str, Any] = {
        "model": TinyModel(),
        "objective": next_token_loss,
        "source": RowSource(micro=2, accum=2),
        "runtime": make_runtime(),
        "sink": None,
    }
    parts |= changes
    sink = parts.pop("sink")
    positional = [parts.pop(name) for name in ("model", "objective", "source")]
    return Trainer(*positional, config, parts.pop("runtime"), workspace(path, sink), **parts)


def gradient_and_result(path: Path, micro: int, accum: int) -> tuple[dict[str, torch.Tensor], StepResult]:
    """The gradient that reaches the optimiser, for rows 0 to micro × accum."""
    trainer = make_trainer(path, train_config(4, max_grad_norm=0.0), source=RowSource(micro, accum))
    seen: dict[str, torch.Tensor] = {}
    trainer.optimizer.step = lambda: seen.update(
        {name: parameter.grad.clone() for name, parameter in trainer.module.named_parameters()}
    )
    result = trainer.train_step(trainer.source.next_batches())
    return seen, result


@pytest.mark.parametrize(("micro", "accum"), [(1, 8), (2, 4), (4, 2)])
def test_the_gradient_does_not_depend_on_how_a_step_is_cut(tmp_path: Path, micro: int, accum: int):
    """Rows have 1 to 6 learnt targets, so a mean of means would fail here."""
    whole, whole_result = gradient_and_result(tmp_path, 8, 1)
    cut, result = gradient_and_result(tmp_path, micro, accum)
    assert result.num_terms == whole_result.num_terms == sum(row % 6 + 1 for row in range(8))
    assert float(result.loss_mean) == pytest.approx(float(whole_result.loss_mean), rel=1e-6)
    for name, gradient in whole.items():
        torch.testing.assert_close(cut[name], gradient, rtol=1e-5, atol=1e-7)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    return run_processes("tests.portable.train.case_train:step_gradients", 2, folder)


@pytest.mark.parametrize("layout", ["1x4", "2x2", "4x1", "uneven"])
def test_nor_on_how_many_ranks_share_it(tmp_path: Path, two_ranks: list[dict[str, Any]], layout: str):
    whole, whole_result = gradient_and_result(tmp_path, 8, 1)
    for rank in two_ranks:
        assert rank[layout]["num_terms"] == whole_result.num_terms
        assert rank[layout]["loss_mean"] == pytest.approx(float(whole_result.loss_mean), rel=1e-6)
        for name, gradient in whole.items():
            assert rank[layout]["gradient"][name] == pytest.approx(
                gradient.flatten().tolist(), rel=1e-5, abs=1e-7
            )


def test_ranks_with_different_numbers_of_micro_batches_are_refused(two_ranks: list[dict[str, Any]]):
    assert all("others have another number" in rank["mismatch"] for rank in two_ranks)


def test_the_loss_is_the_mean_over_terms(tmp_path: Path):
    _, result = gradient_and_result(tmp_path, 2, 1)
    batch = rows_to_batch([0, 1])
    expected = next_token_loss(TinyModel(), batch).loss.detach() / batch.num_terms
    assert float(result.loss_mean) == pytest.approx(float(expected), rel=1e-6)


class OneRow(RowSource):
    def next_batches(self) -> list[Batch]:
        return [rows_to_batch([5])]


def test_training_learns(tmp_path: Path):
    sink = Recorder()
    make_trainer(tmp_path, train_config(40), source=OneRow(1, 1), sink=sink).fit()
    losses = [values["loss"] for _, values in sink.steps()]
    assert losses[0] > 2.5
    assert losses[-1] < 0.2


def test_the_same_run_twice_is_bit_equal(tmp_path: Path):
    hashes = set()
    for name in ("first", "second"):
        runtime = make_runtime()
        runtime.seed_everything(1)
        trainer = make_trainer(
            tmp_path / name, train_config(5), model=TinyModel(dropout=0.2), runtime=runtime
        )
        trainer.fit()
        hashes.add(weights_hash(trainer.module.state_dict()))
    assert len(hashes) == 1


def test_muon_trains_through_the_same_loop(tmp_path: Path):
    sink = Recorder()
    config = train_config(40, optim=MuonConfig(lr=0.02, adamw_lr=0.05))
    make_trainer(tmp_path, config, source=OneRow(1, 1), sink=sink).fit()
    assert sink.steps()[-1][1]["loss"] < 0.2 * sink.steps()[0][1]["loss"]


def test_mixed_precision_computes_in_bf16_and_keeps_fp32_weights(tmp_path: Path):
    seen: list[torch.dtype] = []

    def objective(model: nn.Module, batch: Batch) -> LossSum:
        seen.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
        return next_token_loss(model, batch)

    runtime = make_runtime(precision=PrecisionConfig(compute_dtype=Dtype.bf16))
    trainer = make_trainer(tmp_path, train_config(1), runtime=runtime, objective=objective)
    trainer.fit()
    assert set(seen) == {torch.bfloat16}
    assert {parameter.dtype for parameter in trainer.module.parameters()} == {torch.float32}


def test_gradients_are_clipped_to_the_configured_norm(tmp_path: Path):
    trainer = make_trainer(tmp_path, train_config(4, max_grad_norm=1e-3))
    norms: list[float] = []

    def look() -> None:
        norms.append(float(torch.cat([p.grad.flatten() for p in trainer.module.parameters()]).norm()))

    trainer.optimizer.step = look
    result = trainer.train_step(trainer.source.next_batches())
    assert float(result.grad_norm) > 0.1  # what is reported is the norm before
    assert norms == [pytest.approx(1e-3, rel=1e-3)]


def test_what_is_recorded_has_units_and_is_complete(tmp_path: Path):
    def objective(model: nn.Module, batch: Batch) -> LossSum:
        loss = next_token_loss(model, batch).loss
        return LossSum(loss, {"twice": 2 * loss.detach(), "terms": torch.tensor(float(batch.num_terms))})

    sink = Recorder()
    make_trainer(tmp_path, train_config(2), objective=objective, sink=sink).fit()
    assert [step for step, _ in sink.steps()] == [1, 2]
    values = sink.steps()[-1][1]
    assert values["twice"] == pytest.approx(2 * values["loss"], rel=1e-6)
    assert values["terms"] == 1.0  # metrics are sums over the same terms, divided by their number
    assert values["tokens_seen"] == 2 * 4 * 6
    assert values["tokens_per_s"] > 0
    assert values["mfu"] is None
    assert values["lr"] == pytest.approx(0.05)
    assert values["grad_norm"] > 0


def test_mfu_is_there_when_both_figures_are_known(tmp_path: Path):
    runtime = make_runtime()
    known = HardwareConfig(name="cpu", backend="cpu", peak_tflops={"fp32": Figure(value=0.001)})
    runtime = replace(runtime, hardware=known)
    sink = Recorder()
    make_trainer(tmp_path, train_config(1), runtime=runtime, sink=sink, flops_per_token=1000.0).fit()
    values = sink.steps()[-1][1]
    assert values["mfu"] == pytest.approx(1000.0 * values["tokens_per_s"] / 1e9)


def test_numbers_are_recorded_at_the_log_interval_and_at_the_end(tmp_path: Path):
    sink = Recorder()
    make_trainer(tmp_path, train_config(8, log_every_steps=3), sink=sink).fit()
    assert [step for step, _ in sink.steps()] == [3, 6, 8]
    assert sink.steps()[-1][1]["tokens_seen"] == 8 * 4 * 6


def test_evaluation_runs_at_its_cadence(tmp_path: Path):
    sink, called = Recorder(), []

    def evaluate(step: int) -> dict[str, float]:
        called.append(step)
        trainer.model.eval()
        return {"heldout": float(step)}

    trainer = make_trainer(tmp_path, train_config(5, eval_every_steps=2), sink=sink, evaluate=evaluate)
    trainer.fit()
    assert called == [2, 4]
    assert [(step, values["heldout"]) for step, values in sink.rows if "heldout" in values] == [
        (2, 2.0),
        (4, 4.0),
    ]


def test_every_step_trains_in_training_mode(tmp_path: Path):
    class Sampling(RowSource):
        def next_batches(self) -> list[Batch]:
            trainer.module.eval()  # as an engine that shares the weights does
            return super().next_batches()

    modes: list[bool] = []

    def objective(model: nn.Module, batch: Batch) -> LossSum:
        modes.append(model.training)
        return next_token_loss(model, batch)

    trainer = make_trainer(tmp_path, train_config(3), source=Sampling(2, 1), objective=objective)
    trainer.fit()
    assert modes == [True] * 3


@pytest.mark.parametrize("log_every", [1, 4])
def test_a_loss_that_is_not_finite_names_its_step(tmp_path: Path, log_every: int):
    calls: list[int] = []

    def objective(model: nn.Module, batch: Batch) -> LossSum:
        calls.append(1)
        loss = next_token_loss(model, batch).loss
        return LossSum(loss * math.nan if len(calls) == 5 else loss)  # two micro-batches a step: the third

    trainer = make_trainer(tmp_path, train_config(8, log_every_steps=log_every), objective=objective)
    with pytest.raises(DivergedError, match=r"step 3: the loss is nan .* lower optim.lr"):
        trainer.fit()
    assert not list((tmp_path / "checkpoints").glob("step-*"))


def test_a_step_without_targets_is_an_error_not_a_division_by_zero(tmp_path: Path):
    trainer = make_trainer(tmp_path, train_config(2))
    batch = rows_to_batch([1])
    batch.loss_weight_BT.zero_()
    with pytest.raises(DataError, match="step 1 has 1 micro-batches but no target to learn from"):
        trainer.train_step([batch])
    with pytest.raises(DataError, match="0 micro-batches"):
        trainer.train_step([])


def test_a_group_that_disagrees_is_noticed_before_the_backward_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Pair(LocalGroup):
        def sum_scalar(self, value: float) -> float:
            return value + 3  # the other rank has three

    runtime = make_runtime()
    trainer = make_trainer(tmp_path, train_config(2), runtime=runtime)
    pair = Pair()
    pair.size = 2
    monkeypatch.setitem(runtime.mesh._groups, "batch", pair)
    with pytest.raises(
        CollectiveError, match="rank 0 has 2 micro-batches in step 1, others have another number"
    ):
        trainer.train_step(trainer.source.next_batches())


def test_only_one_transfer_from_the_device_per_log_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Between logs no number may be fetched: on a device each fetch waits for all queued work."""
    trainer = make_trainer(tmp_path, train_config(8, log_every_steps=8))
    fetches: list[str] = []
    for name in ("item", "tolist", "__float__"):
        original = getattr(torch.Tensor, name)

        def fetch(tensor: torch.Tensor, _original: Any = original, _name: str = name) -> Any:
            if tensor.requires_grad or tensor.grad_fn is not None or tensor.ndim == 0 or _name == "tolist":
                fetches.append(_name)
            return _original(tensor)

        monkeypatch.setattr(torch.Tensor, name, fetch)
    for batch in trainer.source.next_batches():
        batch.num_terms  # noqa: B018 - counted on the host, before anything is on the device
    fetches_by_host_batches = len(fetches)
    fetches.clear()
    trainer.source.next_row = 0
    trainer._checkpointer.save = lambda *_: None  # not part of the step
    trainer.fit()
    assert fetches.count("tolist") == 1
    assert len(fetches) - 1 == 8 * fetches_by_host_batches


def test_a_warm_up_longer_than_the_run_is_pointed_out(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level("WARNING", logger="portable.train.trainer"):
        make_trainer(tmp_path, train_config(2))
    assert "schedule.warmup_steps=2 is not below steps=2" in caplog.text


def test_progress_is_drawn_on_request(tmp_path: Path, terminal: pytest.CaptureFixture[str]):
    trainer = make_trainer(tmp_path, train_config(3))
    shown = type(trainer.workspace)(tmp_path, trainer.workspace.metrics, show_progress=True)
    trainer.workspace = shown
    trainer.fit()
    assert "training" in terminal.readouterr().out
