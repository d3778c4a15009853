"""Count the bytes of parameters, gradients and optimiser state under each strategy, beside ZeRO's formulas.

Run: python tests/bench/model_state_memory.py [--ranks 2]

Counted are the storages of all tensors that are alive in a process after the gradients of a second step have
been reduced and before the optimiser steps, less those that were alive before the model was made: nothing
can hide. P is the number of parameters, N the ranks that divide, c and r the bytes of ``compute_dtype`` and
``reduce_dtype``; AdamW keeps two moments.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from portable.device.protocol import Dtype
from portable.parallel.config import PrecisionConfig
from portable.parallel.runtime import Runtime
from portable.testing.process import run_processes
from portable.testing.runtime import make_runtime, with_strategy
from portable.train.config import AdamWConfig
from portable.train.optim.build import build_optimizer
from portable.train.optim.kind import kinds_of

STRATEGIES = ("ddp", "zero1", "zero2", "zero3")
PRECISIONS = {
    "fp32": PrecisionConfig(),
    "bf16": PrecisionConfig(compute_dtype=Dtype.bf16),
    "bf16, bf16 sums": PrecisionConfig(compute_dtype=Dtype.bf16, reduce_dtype=Dtype.bf16),
}


def formula(strategy: str, precision: PrecisionConfig, size: int) -> float:
    """Return bytes a parameter on each of ``size`` ranks."""
    c, r = (dtype.torch().itemsize for dtype in (precision.compute_dtype, precision.reduce_dtype))
    if strategy in ("ddp", "zero3"):  # weights and sums of gradients stay wide
        return 16 / (size if strategy == "zero3" else 1)
    copies = 4 if c < 4 else 0  # the optimiser's own weights; in float32 they are the modules'
    if strategy == "zero1":
        return c + r + (copies + 8) / size
    return c + (r + copies + 8) / size


class Layers(nn.Module):
    def __init__(self, width: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(num_layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


def rank(width: str, num_layers: str) -> list[dict[str, Any]]:
    runtime = make_runtime("cpu", "ddp")
    rows = measure(runtime, int(width), int(num_layers))
    runtime.group.close()
    return rows


def measure(runtime: Runtime, width: int, num_layers: int) -> list[dict[str, Any]]:
    """Return a row for every strategy and precision, over the processes of ``runtime``."""
    return [
        _measure(with_strategy(runtime, strategy, precision), name, width, num_layers)
        for name, precision in PRECISIONS.items()
        for strategy in STRATEGIES
    ]


def _measure(runtime: Runtime, name: str, width: int, num_layers: int) -> dict[str, Any]:
    before = live_bytes()
    model = Layers(width, num_layers)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    strategy = runtime.new_strategy()
    strategy.wrap([model], {})
    optimizer = build_optimizer(
        strategy.shards(), kinds_of(model), AdamWConfig(), runtime.kernels, runtime.mesh
    )
    strategy.attach(optimizer)
    for step in range(2):
        for last in (False, True):
            strategy.accumulate(last=last)
            with runtime.device.autocast(runtime.precision.compute_dtype):
                loss = model(torch.ones(1, width)).float().square().sum()
            strategy.backward(loss)
        strategy.reduce_gradients()
        del loss
        if step == 0:
            strategy.step()
    size = runtime.group.size
    return {
        "strategy": runtime.strategy,
        "precision": name,
        "ranks": size,
        "measured": (live_bytes() - before) / num_parameters,
        "formula": formula(runtime.strategy, runtime.precision, size),
    }


def live_bytes() -> int:
    """Return the bytes of all storages that tensors of this process hold, each counted once.

    A thread of the transport may still have to let go of what has travelled: the count is taken when it stays
    the same for a while.
    """
    gc.collect()
    counts = [_count()]
    while len(set(counts[-4:])) > 1 or len(counts) < 4:
        time.sleep(0.05)
        counts.append(_count())
    return counts[-1]


def _count() -> int:
    sizes: dict[int, int] = {}
    for found in gc.get_objects():
        if issubclass(type(found), Tensor):  # not isinstance, which wakes lazy proxies
            for tensor in (found, found.grad if found.is_leaf else None):
                local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
                if local is not None and local.device.type != "meta":
                    sizes[local.untyped_storage().data_ptr()] = local.untyped_storage().nbytes()
    return sum(sizes.values())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, default=2)
    ranks = parser.parse_args().ranks
    with tempfile.TemporaryDirectory() as folder:
        reports = run_processes("tests.bench.model_state_memory:rank", ranks, Path(folder), "512", "8")
    print("| precision | strategy | ranks | formula, bytes a parameter | measured, all ranks | off by |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for rows in zip(*reports, strict=True):
        low, high = (pick(row["measured"] for row in rows) for pick in (min, max))
        row = rows[0]
        off = max(abs(low / row["formula"] - 1), abs(high / row["formula"] - 1))
        print(
            f"| {row['precision']} | {row['strategy']} | {row['ranks']} | {row['formula']:.2f} | "
            f"{low:.3f} to {high:.3f} | {100 * off:.2f} % |"
        )


if __name__ == "__main__":
    main()
