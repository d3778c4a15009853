"""The idle time of pipeline schedules: measured, beside theory and beside the table run on paper.

``OMP_NUM_THREADS=1 python -m tests.bench.pipeline_bubble --ranks 4 --micro-batches 8``. Stages sleep in place
of computing, which needs no cores; tensors travel as in training. Forward, input gradient and weight gradient
of a whole rank's layers sleep ``--unit`` seconds each, so a rank with two stages sleeps half of it for each.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from portable.core.record import Batch
from portable.parallel.config import ParallelConfig
from portable.parallel.objective import LossSum, Model
from portable.parallel.pipeline.deferred import WeightGradients
from portable.parallel.pipeline.executor import Pipeline
from portable.parallel.pipeline.schedule.select import SCHEDULES, Schedule, make_schedule
from portable.parallel.pipeline.schedule.simulate import simulate
from portable.testing.process import run_processes
from portable.testing.runtime import make_runtime

ROUNDS = 5


class Sleeper(nn.Module):
    """A stage that sleeps; one weight makes it something to train."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.weight = nn.Parameter(torch.ones(1))

    def forward(
        self, x: Tensor, positions: Tensor, cu_seqlens: Tensor | None = None, targets: Tensor | None = None
    ) -> Tensor:
        return _Sleep.apply(x.float(), self.weight, self.seconds)


class _Sleep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, seconds: float) -> Tensor:
        ctx.seconds, ctx.late = seconds, WeightGradients.current()
        time.sleep(seconds)
        return x * weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        time.sleep(ctx.seconds)
        if ctx.late is None or ctx.late.put_off is None:
            time.sleep(ctx.seconds)
        else:
            ctx.late.put_off.append(lambda: time.sleep(ctx.seconds))
        return gradients[0], gradients[0].sum().reshape(1), None


def run(names: str, micro_batches: str, unit: str) -> dict[str, list[float]]:
    """Return the measured bubble of each round, by schedule. The rounds of the schedules alternate."""
    runtime = make_runtime(parallel=ParallelConfig(pipeline_parallel_degree=int(os.environ["WORLD_SIZE"])))
    pipelines = {}
    for name in names.split(","):
        schedule = _schedule(name, runtime.mesh.size("pp"))
        own = schedule.stages_of(runtime.mesh.index("pp"))
        parts = [Sleeper(float(unit) / len(own)) for _ in own]
        strategy = runtime.new_strategy()
        strategy.wrap(parts, {})
        pipelines[name] = Pipeline(schedule, strategy, runtime.mesh, runtime.device, nullcontext)
    batches = [_batch() for _ in range(int(micro_batches))]
    measured: dict[str, list[float]] = {name: [] for name in pipelines}
    for number in range(ROUNDS + 1):
        for name, pipeline in pipelines.items():
            runtime.group.barrier()
            pipeline.forward_backward(batches, _objective, 1.0)
            fraction = pipeline.meter.fraction()
            if number and fraction is not None:  # the first round tells looks and names
                measured[name].append(fraction)
    runtime.group.close()
    return measured


def _schedule(name: str, ranks: int) -> Schedule:
    return make_schedule(ParallelConfig(pipeline_parallel_degree=ranks, pipeline_parallel_schedule=name))


def _batch() -> Batch:
    ids = torch.zeros(1, 4, dtype=torch.int64)
    return Batch(ids, ids, torch.ones(1, 4), ids)


def _objective(model: Model, batch: Batch) -> LossSum:
    return LossSum(model(batch.input_ids_BT, batch.position_ids_BT).sum())


def _theory(name: str, p: int, m: int) -> float | None:
    """The formulas of the papers, where there is one."""
    stages = {"GPipe": 1, "1F1B": 1, "Interleaved1F1B": 2, "LoopedBFS": 2}
    return (p - 1) / (stages[name] * m + p - 1) if name in stages else None


def main(words: Sequence[str] | None = None) -> None:
    """Print a table for ``docs/benchmarks.md``; end with 1 if a schedule is more than 5 points off."""
    parser = argparse.ArgumentParser(description="Idle time of pipeline schedules, measured and in theory.")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--micro-batches", type=int, default=8)
    parser.add_argument("--unit", type=float, default=0.04, help="seconds of a rank's forward pass")
    parser.add_argument("--schedules", default=",".join(SCHEDULES))
    asked = parser.parse_args(words)
    p, m = asked.ranks, asked.micro_batches
    with tempfile.TemporaryDirectory() as folder:
        reports = run_processes(
            "tests.bench.pipeline_bubble:run", p, Path(folder), asked.schedules, str(m), str(asked.unit),
            timeout_s=900.0,
        )  # fmt: skip
    print(f"{p} ranks, {m} micro-batches, {asked.unit * 1e3:g} ms\n")
    print("| schedule | measured | on paper | formula | difference, points | activations held |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    worst = 0.0
    for name, rounds in reports[0].items():
        forecast = simulate(_schedule(name, p).table(m))
        formula = _theory(name, p, m)
        measured = statistics.median(rounds)
        off = 100 * (measured - (forecast.bubble_fraction if formula is None else formula))
        worst = max(worst, abs(off))
        cells = [
            *(name, f"{measured:.3f}", f"{forecast.bubble_fraction:.3f}"),
            *("" if formula is None else f"{formula:.3f}", f"{off:+.1f}"),
            ", ".join(map(str, forecast.peak_activations)),
        ]
        print("| " + " | ".join(cells) + " |")
    raise SystemExit(worst > 5.0)


if __name__ == "__main__":
    main()
