"""Losses that are not finite, on one of two ranks, in fp16 and in a format that has no loss scale."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from portable.core.record import Batch
from portable.device.protocol import Dtype
from portable.parallel.config import LossScaleConfig, PrecisionConfig
from portable.parallel.objective import LossSum
from portable.parallel.runtime import Runtime
from portable.testing.runtime import make_runtime, with_strategy
from portable.train.next_token import next_token_loss
from portable.train.rollback import DivergedError
from portable.train.trainer import Trainer
from tests.portable.train.support import RowSource, TinyModel, train_config, weights_hash, workspace

STRATEGIES = ("ddp", "zero2", "fsdp")
STEPS, BAD_STEP = 4, 2


class Recorder:
    """Keeps what is recorded, by step."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float | None]] = {}

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        self.rows[step] = dict(values)

    def close(self) -> None:
        pass


def together() -> dict[str, dict[str, Any]]:
    """Return by strategy and kind of trouble what this rank saw."""
    base = make_runtime("cpu", "ddp")
    fp16 = PrecisionConfig(compute_dtype=Dtype.fp16, loss_scale=LossScaleConfig(initial=1024.0))
    spent = PrecisionConfig(
        compute_dtype=Dtype.fp16, loss_scale=LossScaleConfig(initial=1024.0, minimum=1024.0)
    )
    report: dict[str, dict[str, Any]] = {}
    for name in STRATEGIES:
        report[name] = {
            "fine": _train(with_strategy(base, name, fp16), 1.0),
            "inf": _train(with_strategy(base, name, fp16), float("inf")),
            "inf, no smaller factor": _train(with_strategy(base, name, spent), float("inf")),
            "inf, fp32": _train(with_strategy(base, name), float("inf")),
        }
    base.group.close()
    return report


def _train(runtime: Runtime, factor: float) -> dict[str, Any]:
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            TinyModel(),
            _poisoned(factor, runtime.group.rank),
            RowSource(1, 1, runtime.readers.rank, runtime.readers.size),
            train_config(STEPS),
            runtime,
            workspace(Path(folder), recorder),
        )
        found: dict[str, Any] = {"diverged": None}
        try:
            trainer.fit()
        except DivergedError as error:
            found |= {"diverged": error.step, "message": str(error)}
        runtime.group.barrier()
    return found | {
        "rows": [recorder.rows[step] for step in sorted(recorder.rows)],
        "scale": trainer.model.loss_scale.read(),
        "weights": weights_hash(trainer.model.whole_weights()),
    }


def _poisoned(factor: float, rank: int) -> Callable[[nn.Module, Batch], LossSum]:
    """The loss, times ``factor`` in one step of rank 1."""
    calls = 0

    def objective(model: nn.Module, batch: Batch) -> LossSum:
        nonlocal calls
        calls += 1
        found = next_token_loss(model, batch)
        return LossSum(found.loss * factor) if rank == 1 and calls == BAD_STEP else found

    return objective
