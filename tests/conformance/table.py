"""Write docs/conformance.md from reports of tests.conformance.run.

python -m tests.conformance.table docs/conformance.md sim_float32.json sim_bfloat16.json ...

The page's section about kernels, which ``portable verify kernels --markdown`` writes, stays as it is.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from portable.kernel.conformance.report import kernel_section

INTRODUCTION = """\
# Conformance: torch's own operator database as ground truth

Every sample of every operator in torch's `op_db` runs on the CPU and on the device, with the same inputs
in the same memory layout: as a function with its gradients, in place, into `out=` tensors in another
memory order, and into empty `out=` tensors that must grow. Compared are the values, shapes, dtypes, the
device of every result, which inputs the results share memory with, what happened to the inputs, and the
version counters.

A sample is *equal* if everything agrees within the tolerance of `torch.testing` for the dtype (or the
wider one that torch's own tests grant the operator), or if the device is as near to the result in
float64 as the CPU is: at most twice its error plus one unit in the last place. It is *to the bit* if no
number differs at all, *refused* if the device alone raises a `RuntimeError` that says why, and
*different* otherwise; a crash or a stall is different.

Samples that the CPU itself refuses are not counted. Where another seed gives the CPU other numbers the
result is random, and only its form is compared, unless it is equal; uninitialised results (`empty` and
its family) are compared in form. Two places where torch 2.13 itself stands in the way: `out=` in column-
major order is left out for `tril`, `triu`, `lu_unpack` and `linalg.lu`, which then write out of bounds
on the CPU, and `linear_cross_entropy` is given its accumulator, which torch would choose by the device's
name.
"""

LAUNCHERS = {"npu": "portable emulate ascend -- "}


def main(page: Path, files: list[str]) -> int:
    reports = [json.loads(Path(file).read_text()) for file in files]
    kernels = kernel_section(page.read_text()) if page.is_file() else ""
    page.write_text(write_page(reports, kernels))
    return 0


def write_page(reports: list[dict[str, Any]], kernels: str = "") -> str:
    """Return the page; ``kernels`` is its section about kernels."""
    parts = [INTRODUCTION, _table(reports)]
    for title, kind in (("Refused", "refused"), ("Different", "different")):
        parts.append(f"\n## {title}\n")
        for report in reports:
            parts.append(f"### {report['device']}, {report['dtype']}\n")
            parts.append(_reasons(report, kind) + "\n")
    parts.append("## Run it\n")
    for report in reports:
        parts.append(f"    {LAUNCHERS.get(report['device'], '')}{report['command']} --json FILE")
    parts.append("    python -m tests.conformance.table docs/conformance.md *.json")
    return "\n".join([*parts, *(["", kernels.rstrip()] if kernels else [])]) + "\n"


def _table(reports: list[dict[str, Any]]) -> str:
    rows = [
        "| device | dtype | operators | samples | equal | to the bit | refused | different | torch | date |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    for report in reports:
        totals = defaultdict(int, report["totals"])
        equal = totals["exact"] + totals["close"]
        counted = equal + totals["refused"] + totals["different"]
        rows.append(
            f"| {report['device']} | {report['dtype']} | {report['num_ops']} | {counted} "
            f"| {equal} ({equal / counted:.2%}) | {totals['exact']} ({totals['exact'] / counted:.2%}) "
            f"| {totals['refused']} | {totals['different']} | {report['torch']} | {report['date']} |"
        )
    return "\n".join(rows)


def _reasons(report: dict[str, Any], kind: str) -> str:
    """Group the reasons of one kind: those that differ in numbers and addresses only are one."""
    operators: dict[str, set[str]] = defaultdict(set)
    samples: dict[str, int] = defaultdict(int)
    for name, found in report["ops"].items():
        for reason, count in found.get("reasons", {}).get(kind, {}).items():
            group = _generalise(reason)
            operators[group].add(name)
            samples[group] += count
    if not samples:
        return "None."
    rows = ["| samples | operators | reason |", "|---:|---|---|"]
    for group, count in sorted(samples.items(), key=lambda item: -item[1]):
        rows.append(f"| {count} | {', '.join(sorted(operators[group]))} | {group} |")
    return "\n".join(rows)


def _generalise(reason: str) -> str:
    text = re.sub(r"\[ERROR\].*", "", reason)
    text = re.sub(r"(?<![\w:.])-?\d+(\.\d+)?(e-?\d+)?", "#", text)
    return text.replace("|", "/")[:160].strip()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
