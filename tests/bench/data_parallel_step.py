"""Time a model's forward and backward under our strategies beside torch's DDP, on two processes.

Run: OMP_NUM_THREADS=1 python tests/bench/data_parallel_step.py [--steps 40]

Both add up gradients while the backward pass runs, in buckets of 25 MiB. Rounds of the two alternate in one
run; the figures are medians over all steps of rank 0, and the ratio is the median of neighbours' ratios.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from portable.parallel.runtime import Runtime
from portable.testing.process import run_processes
from portable.testing.runtime import make_runtime, with_strategy
from tests.bench.model_state_memory import Layers

SHAPES = ((256, 8, 256), (1024, 12, 128))  # width, layers, rows


def rank(num_steps: str) -> list[dict[str, Any]]:
    runtime = make_runtime("cpu", "ddp")
    rows = [_compare(runtime, *shape, int(num_steps)) for shape in SHAPES]
    runtime.group.close()
    return rows


def _compare(runtime: Runtime, width: int, num_layers: int, num_rows: int, num_steps: int) -> dict[str, Any]:
    x = torch.randn(num_rows, width)
    theirs = DistributedDataParallel(Layers(width, num_layers), gradient_as_bucket_view=True)
    ways: dict[str, Callable[[], None]] = {"torch": lambda: _bare(theirs, x)}
    for name in ("ddp", "zero1", "zero2", "zero3"):
        ways[name] = _ours(with_strategy(runtime, name), Layers(width, num_layers), x)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for step in range(num_steps + 2):
        for name, act in ways.items():
            runtime.group.barrier()
            start = time.perf_counter()
            act()
            if step > 1:
                times[name].append(time.perf_counter() - start)
    report: dict[str, Any] = {"shape": f"{num_layers} × {width}², {num_rows} rows"}
    for name, taken in times.items():
        report[name] = 1e3 * statistics.median(taken)
        report[f"{name} ratio"] = statistics.median(
            own / other for own, other in zip(taken, times["torch"], strict=True)
        )
    return report


def _bare(model: nn.Module, x: torch.Tensor) -> None:
    model(x).square().sum().backward()
    model.zero_grad(set_to_none=True)


def _ours(runtime: Runtime, model: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """Everything but the optimiser's own step, as beside it; the divided ones publish their parts, too."""
    strategy = runtime.new_strategy()
    strategy.wrap([model], {})
    strategy.attach(_Still([shard.parameter for shard in strategy.shards()]))

    def act() -> None:
        strategy.accumulate(last=True)
        strategy.backward(model(x).square().sum())
        strategy.reduce_gradients()
        strategy.step()

    return act


class _Still:
    """An optimiser that leaves everything as it is."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self._parameters = parameters

    def step(self) -> None:
        """Do nothing."""

    def zero_grad(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=40)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as folder:
        rows = run_processes(
            "tests.bench.data_parallel_step:rank", 2, Path(folder), str(steps), timeout_s=1200
        )[0]
    names = ("ddp", "zero1", "zero2", "zero3")
    print("| layers | torch DDP, ms | " + " | ".join(f"{name}, ms (ratio)" for name in names) + " |")
    print("| --- | ---: | " + " | ".join("---:" for _ in names) + " |")
    for row in rows:
        cells = " | ".join(f"{row[name]:.1f} ({row[name + ' ratio']:.2f})" for name in names)
        print(f"| {row['shape']} | {row['torch']:.1f} | {cells} |")


if __name__ == "__main__":
    main()
