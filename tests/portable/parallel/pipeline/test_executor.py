"""Pipelines compute what the whole model computes: on one rank, on two, on four."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from portable.core.errors import CollectiveError, ShapeError
from portable.core.record import Batch
from portable.model.init import new_model
from portable.parallel.config import ParallelConfig
from portable.parallel.objective import LossSum, Model
from portable.testing.process import run_processes
from portable.testing.runtime import make_runtime
from tests.portable.parallel.pipeline.case_executor import (
    SCALE,
    batches,
    compare,
    make_pipeline,
    model_config,
    objective,
)

CASE = "tests.portable.parallel.pipeline.case_executor"


def check(reports: list[dict[str, Any]]) -> None:
    for name in [name for name, found in reports[0].items() if isinstance(found, dict)]:
        for report in reports:
            found = report[name]
            assert found["loss"] <= 2e-6, name
            assert found["hits"] == 0.0, name
            assert found["gradient"] <= (1e-3 if name == "bf16" else 1e-5), name
            assert max(found["evaluation"]) <= 2e-6, name
            assert 0.0 <= found["bubble"] <= 1.0, name
        held = {parameter for report in reports for parameter in report[name]["names"]}
        assert held == set(reports[0][name]["all"]), name


def test_two_ranks_and_every_schedule(tmp_path: Path) -> None:
    reports = run_processes(f"{CASE}:two_ranks", 2, tmp_path)
    check(reports)
    assert [report["meta"] for report in reports] == [
        [2, True, True, ["blocks.0.attention.k.weight"]],
        [2, True, True, ["blocks.1.attention.k.weight"]],
    ]


@pytest.mark.slow
def test_four_ranks(tmp_path: Path) -> None:
    check(run_processes(f"{CASE}:four_ranks", 4, tmp_path, timeout_s=400.0))


@pytest.mark.parametrize("name", ["Interleaved1F1B", "ZBVZeroBubble"])
def test_several_stages_on_one_rank(name: str) -> None:
    check([{name: compare(make_runtime(), name, 3)}])


def test_an_objective_must_use_the_micro_batch_and_keep_its_metrics() -> None:
    runtime = make_runtime()
    model = new_model(model_config(2, tied=True), runtime.kernels, seed=1)
    config = ParallelConfig(pipeline_parallel_schedule="ZBVZeroBubble")
    pipeline, _ = make_pipeline(runtime, model, config)
    given = batches(2, varied=False)

    def shortened(model: Model, batch: Batch) -> LossSum:
        return LossSum(model(batch.input_ids_BT[:1], batch.position_ids_BT[:1]).sum())

    def renamed(model: Model, batch: Batch) -> LossSum:
        return LossSum(objective(model, batch).loss, {"misses": torch.zeros(())})

    with pytest.raises(ShapeError, match=r"with ids of shape \(1, 8\)"):
        pipeline.forward_backward(given, shortened, SCALE)
    pipeline.forward_backward(given, objective, SCALE)
    with pytest.raises(CollectiveError, match=r"reports \['misses'\], but reported \['hits'\]"):
        pipeline.forward_backward(given, renamed, SCALE)
