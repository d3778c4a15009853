"""Measure how far layouts that are right depart from one process in a 16-bit format, and how far faults do.

Run: PYTHONPATH=. python tests/bench/certificate_noise.py [--precision bf16] [--ranks 2]

The bars of ``portable.certificate.measure`` lie between the two, to which ``test_noise`` holds them. Printed
are all differences, and the largest as a multiple of its bar.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import traceback
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from portable.certificate.certify import compare
from portable.certificate.shrink import make_trial
from portable.config.load import load
from portable.device.protocol import Dtype
from portable.parallel.config import PrecisionConfig
from portable.parallel.runtime import Runtime
from portable.testing.process import run_processes
from portable.testing.runtime import make_runtime, with_strategy
from portable.train.config import AdamWConfig
from tests.portable.certificate.fault import BASE, FAULTS
from tests.portable.certificate.matrix import FOUR, TWO

PRECISIONS = {
    name: PrecisionConfig(name=name, compute_dtype=Dtype[name]) for name in ("fp32", "bf16", "fp16")
}
STEPS = 3  # what the command takes


def rank(precision: str, ranks: str) -> dict[str, list[dict[str, Any]]]:
    """Return the lines of right layouts and of faults."""
    runtime = make_runtime("cpu", "ddp", PRECISIONS[precision])
    layouts = TWO if ranks == "2" else FOUR
    told = {
        f"right: {name}": _lines(words, runtime, contextlib.nullcontext()) for name, words in layouts.items()
    }
    if ranks == "2":
        told |= {
            f"fault: {name}": _lines(f"{BASE} {words}", runtime, fault())
            for name, (fault, words, where, _) in FAULTS.items()
            if where
        }
    runtime.group.close()
    return told


def _lines(words: str, runtime: Runtime, fault: AbstractContextManager[Any]) -> list[dict[str, Any]]:
    job = load("pretrain", [*words.split(), "hardware=cpu"])
    try:
        trial = make_trial(job.model, job.parallel, seq_len=job.seq_len, full=False)
        with fault:
            lines = compare(
                trial,
                with_strategy(runtime, job.strategy.name, parallel=trial.parallel),
                AdamWConfig(),
                STEPS,
            )
    except Exception:  # noqa: BLE001 - a line of the table, too
        return [{"what": "failed", "difference": 0.0, "bar": 1.0, "of": traceback.format_exc()}]
    return [
        {"what": line.what, "difference": line.difference, "bar": line.bar, "of": line.of} for line in lines
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--precision", choices=sorted(PRECISIONS), default="bf16")
    parser.add_argument("--ranks", choices=("2", "4"), default="2")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = run_processes(
            "tests.bench.certificate_noise:rank",
            int(options.ranks),
            Path(folder),
            *(options.precision, options.ranks),
            timeout_s=3000.0,
        )[0]
    kinds = [line["what"] for line in next(iter(told.values()))]
    print("| layout | " + " | ".join(kinds) + " | largest / bar |")
    print("| --- |" + " ---: |" * (len(kinds) + 1))
    for name, lines in told.items():
        values = " | ".join(f"{line['difference']:.1e}" for line in lines)
        print(f"| {name} | {values} | {max(line['difference'] / line['bar'] for line in lines):.2f} |")
        if lines[0]["what"] == "failed":
            print(lines[0]["of"])


if __name__ == "__main__":
    main()
