"""Time what picking kernels by the registry costs: a call, and a training step.

Run: OMP_NUM_THREADS=1 python tests/bench/kernel_dispatch.py [--pairs 40]

A call: a module that holds a function picked by the registry calls it, beside one that holds the function
itself; the function does nothing, so that only the way to it is timed. A step: the same model and optimiser
built with picked kernels and with the functions imported by hand, in alternation as in ``layer_overhead``.
"""

from __future__ import annotations

import argparse
import statistics
import timeit
from collections.abc import Callable

import numpy as np
import torch

from backends.cpu.processor import cpu_title
from portable.core.record import Batch
from portable.core.registry import load_target
from portable.kernel.entry import KernelEntry
from portable.kernel.op import STANDARD, find_op
from portable.kernel.registry import KernelSet
from portable.model.init import new_model
from portable.train.config import AdamWConfig
from portable.train.next_token import next_token_loss
from portable.train.optim.build import build_optimizer
from tests.bench.layer_overhead import MODEL, compare, make_batch


def nothing(*_: object) -> None:
    """What is called when only the call is timed."""


class Holder:
    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function

    def call(self) -> None:
        self._function(None, None)


class ByHand(KernelSet):
    """Hands out functions that were imported before, without looking at rows."""

    def __init__(self) -> None:
        super().__init__("cpu", "fp32")
        self.functions = {}
        for name, variant in (
            *(("rms_norm", STANDARD), ("rms_norm", "add"), ("rope", "half"), ("swiglu", STANDARD)),
            *(("attention", STANDARD), ("token_log_probs", STANDARD), ("adamw", STANDARD)),
        ):
            row = self.candidates(find_op(name, variant), {})[0]
            self.functions[name, variant] = load_target(row.target)

    def pick(self, op: str, variant: str = STANDARD, **facts: object):
        return self.functions[op, variant]


def call_ns(function: Callable[..., None], number: int = 200_000) -> list[float]:
    holder = Holder(function)
    return [1e9 * time / number for time in timeit.repeat(holder.call, number=number, repeat=9)]


def step_with(kernels: KernelSet, batch: Batch) -> Callable[[], float]:
    model = new_model(MODEL, kernels, seed=0)
    optimizer = build_optimizer(model, AdamWConfig(lr=1e-3), kernels)

    def step() -> float:
        output = next_token_loss(model, batch)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(output.loss.detach())

    return step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=40)
    pairs = parser.parse_args().pairs
    entry = KernelEntry(op="swiglu", name="nothing", backend="cpu", target=f"{__name__}:nothing")
    picked = KernelSet("cpu", "fp32", entries=[entry]).pick("swiglu")
    print(f"{cpu_title()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    by_registry, by_hand = call_ns(picked), call_ns(nothing)
    print(
        f"a call of an empty function: picked {min(by_registry):.1f} ns, held {min(by_hand):.1f} ns "
        f"(least of 9); difference {min(by_registry) - min(by_hand):+.1f} ns"
    )
    batch = make_batch(1, 128)
    with_registry, direct = step_with(KernelSet("cpu", "fp32"), batch), step_with(ByHand(), batch)
    losses = [(with_registry(), direct()) for _ in range(5)]  # warm-up; and they must be the same step
    if any(a != b for a, b in losses):
        raise SystemExit(f"the two do not compute the same: {losses}")
    times = compare(with_registry, direct, pairs)
    ratios = np.array([a / b for a, b in times])
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    a, b = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"a training step: picked {a:.2f} ms, held {b:.2f} ms, ratio {np.median(ratios):.4f} "
        f"(95 % {low:.4f} to {high:.4f})"
    )


if __name__ == "__main__":
    main()
