"""Train every layout and one process from the same weights on the same samples, and compare.

Run: PYTHONPATH=. python tests/bench/layout_parity.py [--world 1 2 4 8] [--precision fp32] [--steps 20]

The step's loss, its gradient norm, and after the first backward pass every gradient: the largest difference
over steps, parameters and ranks. Gradients are relative to the largest entry of their tensor, norms to
themselves, losses absolute (in bf16 relative). Rows are documents of unequal lengths, of which unequally
many targets are learnt, some readers having none. One process trains each model once.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from portable.certificate.measure import FP32, relative_difference
from portable.certificate.train import Run, train
from portable.core.errors import ConfigError
from portable.device.protocol import Dtype
from portable.parallel.check import check_layout
from portable.parallel.config import ParallelConfig, PrecisionConfig
from portable.parallel.degrees import make_layout
from portable.parallel.runtime import Runtime
from portable.testing.process import run_processes
from portable.testing.runtime import make_runtime, with_strategy
from portable.train.config import AdamWConfig
from tests.bench.layout_cases import CASES, FOREIGN, UNEVEN, Case, trial_of

PRECISIONS = {
    "fp32": PrecisionConfig(),
    "bf16": PrecisionConfig(name="bf16", compute_dtype=Dtype.bf16),
}
HALF_LOSS = 1e-3  # the bar in bf16, relative
_LIMIT_S = 3000.0


def alone(folder: str, precision: str, steps: str, *models: str) -> dict[str, float]:
    """Train each model in this process, and keep what it did in ``folder``; return the seconds of each."""
    runtime = make_runtime(precision=PRECISIONS[precision])
    seconds: dict[str, float] = {}
    for model in models:
        begin = time.monotonic()
        run = train(trial_of(model, ParallelConfig(), 1), runtime, AdamWConfig(), readers=1, steps=int(steps))
        torch.save(run, _expected(folder, model))
        seconds[model] = time.monotonic() - begin
    return seconds


def together(folder: str, precision: str, steps: str, world: str, *names: str) -> list[dict[str, Any]]:
    """Train each layout on all ranks; return the differences that this rank saw."""
    strategy = "single" if world == "1" else "ddp"
    runtime = make_runtime("cpu", strategy, PRECISIONS[precision])
    rows = [
        _compare(case, runtime, folder, int(steps)) for case in cases_of(int(world)) if key(case) in names
    ]
    runtime.group.close()
    return rows


def cases_of(world: int) -> list[Case]:
    """Return all layouts of ``world`` ranks."""
    return [*CASES[world], *UNEVEN.get(world, [])]


def key(case: Case) -> str:
    """Return what tells a case from others."""
    return f"{case.model}: {case.name}"


def _compare(case: Case, runtime: Runtime, folder: str, steps: int) -> dict[str, Any]:
    begin = time.monotonic()
    try:
        readers = make_layout(case.parallel, case.strategy, runtime.group.size).size("batch")
        trial = trial_of(case.model, case.parallel, readers)
        if case.model not in FOREIGN:  # models of transformers are checked when they are spread
            check_layout(
                case.parallel, trial.model, seq_len=trial.seq_len, num_micro_batches=trial.num_micro_batches
            )
        own = with_strategy(runtime, case.strategy, parallel=case.parallel)
        found = train(trial, own, AdamWConfig(), readers=readers, steps=steps)
    except ConfigError as error:
        return {"refused": str(error)}
    except Exception:  # noqa: BLE001 - one that fails is a line of the table, too
        return {"failed": traceback.format_exc()}
    expected: Run = torch.load(_expected(folder, case.model), weights_only=False)
    whole = {name: tensor for name, (_, tensor) in expected.gradients.items()}
    gradients = {
        name: relative_difference(extent.of(whole[name]), part, whole[name])
        for name, (extent, part) in found.gradients.items()
    }
    worst = max(gradients, key=lambda name: gradients[name])
    losses = list(zip(expected.losses, found.losses, strict=True))
    return {
        "loss": max(abs(a - b) for a, b in losses),
        "relative_loss": max(abs(a / b - 1) for a, b in losses),
        "norm": max(abs(a / b - 1) for a, b in zip(expected.norms, found.norms, strict=True)),
        "gradient": gradients[worst],
        "of": worst,
        "seconds": time.monotonic() - begin,
    }


def _expected(folder: str, model: str) -> Path:
    return Path(folder) / f"{model}.pt"


def measure(world: int, precision: str, steps: int, words: list[str]) -> list[tuple[Case, dict[str, Any]]]:
    """Return layouts of ``world`` ranks whose names hold one of ``words``, with the worst of all ranks."""
    cases = [case for case in cases_of(world) if any(word in key(case) for word in words)]
    common = (precision, str(steps))
    with tempfile.TemporaryDirectory() as folder:
        models = dict.fromkeys(case.model for case in cases)
        run_processes(
            "tests.bench.layout_parity:alone",
            1,
            Path(folder) / "1",
            folder,
            *common,
            *models,
            timeout_s=_LIMIT_S,
        )
        reports = run_processes(
            "tests.bench.layout_parity:together",
            world,
            Path(folder) / str(world),
            *(folder, *common, str(world), *map(key, cases)),
            timeout_s=_LIMIT_S,
        )
    return [(case, _worst(rows)) for case, rows in zip(cases, zip(*reports, strict=True), strict=True)]


def _worst(rows: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    for outcome in ("failed", "refused"):
        told = [row for row in rows if outcome in row]
        if told:
            all_of_them = len(told) == len(rows)
            return told[0] if all_of_them else {"failed": f"{len(told)} of {len(rows)} ranks: {told[0]}"}
    largest = max(rows, key=lambda row: row["gradient"])
    return largest | {
        name: max(row[name] for row in rows) for name in ("loss", "relative_loss", "norm", "seconds")
    }


def agrees(found: dict[str, Any], precision: str) -> bool:
    """Return whether a line is within its bars."""
    if "loss" not in found:
        return False
    if precision != "fp32":
        return found["relative_loss"] <= HALF_LOSS
    return found["loss"] <= FP32.loss and found["norm"] <= FP32.norm and found["gradient"] <= FP32.gradient


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--world", type=int, nargs="+", choices=sorted(CASES), default=sorted(CASES))
    parser.add_argument("--precision", choices=sorted(PRECISIONS), default="fp32")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORDS", help="of 'MODEL: LAYOUT'")
    options = parser.parse_args()
    column = "loss" if options.precision == "fp32" else "relative_loss"
    print(f"| ranks | model | layout | {column.replace('_', ' ')} | gradient norm | gradients | verdict |")
    print("| ---: | --- | --- | ---: | ---: | ---: | --- |")
    bad = 0
    for world in options.world:
        begin = time.monotonic()
        for case, found in measure(world, options.precision, options.steps, options.only):
            head = f"| {world} | {case.model} | {case.name} |"
            if "loss" in found:
                right = agrees(found, options.precision)
                verdict = "agrees" if right else f"DEPARTS ({found['of']})"
                figures = " | ".join(f"{found[name]:.1e}" for name in (column, "norm", "gradient"))
                print(f"{head} {figures} | {verdict} |")
            else:
                right = "refused" in found and case in UNEVEN.get(world, [])
                print(f"{head} | | | {'refused' if 'refused' in found else 'FAILED'} |")
                print(found.get("refused") or found["failed"], file=sys.stderr)
            bad += not right
        print(f"{world} ranks: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
