"""Time a collective of ours beside torch's own on two processes, with and without the check of every call.

Run: python tests/bench/collective_check.py [--calls 300]

The check compares what the ranks are about to do in one small message on the control group. Rounds of the
three ways alternate within one run; the figures are medians over all calls of rank 0.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from portable.device.select import load_backend
from portable.testing.process import run_processes

SIZES = (256, 2**18)  # float32 values
ROUNDS = 10


def rank(num_calls: str) -> list[dict[str, Any]]:
    backend = load_backend("cpu")
    checked = backend.group(60.0)
    unchecked = checked.subgroup("unchecked", list(range(checked.size)))
    unchecked._world = replace(unchecked._world, check_calls=False)
    rows: list[dict[str, Any]] = []
    for size in SIZES:
        tensor = torch.ones(size)
        ways: dict[str, Callable[[], Any]] = {
            "torch": lambda tensor=tensor: dist.all_reduce(tensor.clone(), group=checked.process_group),
            "ours, unchecked": lambda tensor=tensor: unchecked.all_reduce(tensor),
            "ours": lambda tensor=tensor: checked.all_reduce(tensor),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, call in ways.items():
                for _ in range(int(num_calls) // ROUNDS):
                    start = time.perf_counter()
                    call()
                    times[name].append(time.perf_counter() - start)
        rows.append({"size": size} | {name: 1e6 * statistics.median(taken) for name, taken in times.items()})
    checked.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=300)
    calls = parser.parse_args().calls
    with tempfile.TemporaryDirectory() as folder:
        rows = run_processes("tests.bench.collective_check:rank", 2, Path(folder), str(calls))[0]
    print("| all_reduce of | torch, µs | ours without check, µs | ours, µs | ours / torch |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for row in rows:
        bare, unchecked, ours = row["torch"], row["ours, unchecked"], row["ours"]
        size = f"{4 * row['size'] // 1024} KiB"
        print(f"| {size} | {bare:.0f} | {unchecked:.0f} | {ours:.0f} | {ours / bare:.2f} |")


if __name__ == "__main__":
    main()
