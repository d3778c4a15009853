"""Compare every operator of torch's own database on a device with the CPU.

    python -m tests.conformance.run --device sim --dtype float32 --json out.json [--ops add,mm]

Operators run in child processes, a slice at a time: a crash or a stall costs one operator and is reported.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parent.parent.parent
ACTIVATORS = {"sim": "backends.sim.runtime:activate", "npu": "torch_npu"}
"""What makes a device type known to torch: a module to import, or a function to call."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.run", description=__doc__)
    parser.add_argument("--device", required=True, help="device type as torch names it: sim, npu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--ops", help="names as torch's database has them, parted by commas; default: all")
    parser.add_argument("--activate", help="module[:function] that makes the device known to torch")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--slice", type=int, default=40, help="operators per child process")
    parser.add_argument("--timeout-s", type=float, default=300.0, help="longest time for one sample")
    parser.add_argument("--json", type=Path, help="where the report goes; default: standard output")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        run_child(options)
        return 0
    report = run_all(options)
    text = json.dumps(report, indent=1)
    if options.json:
        options.json.write_text(text)
    else:
        print(text)
    print(summary(report), file=sys.stderr)
    return 1 if report["totals"].get("different") else 0


def summary(report: dict[str, Any]) -> str:
    totals = report["totals"]
    counted = sum(totals.get(kind, 0) for kind in ("exact", "close", "refused", "different"))
    equal = totals.get("exact", 0) + totals.get("close", 0)
    return (
        f"{report['device']} {report['dtype']}: {report['num_ops']} operators, {counted} samples, "
        f"{equal} equal ({totals.get('exact', 0)} to the bit), {totals.get('refused', 0)} refused, "
        f"{totals.get('different', 0)} different; {report['seconds']:.0f} s"
    )


def operator_names() -> list[str]:
    """Every entry of the database once; variants of one name are told apart by ``name/variant``."""
    from torch.testing._internal.common_methods_invocations import op_db

    return [full_name(op) for op in op_db]


def full_name(op: Any) -> str:
    return f"{op.name}/{op.variant_test_name}" if op.variant_test_name else op.name


def run_child(options: argparse.Namespace) -> None:
    """Check the operators named in ``--ops``; one line of JSON a step on standard output."""
    import torch
    from torch.testing._internal.common_methods_invocations import op_db

    from tests.conformance.check import check_operator

    module, _, function = (options.activate or ACTIVATORS.get(options.device, "")).partition(":")
    if module:
        found = importlib.import_module(module)
        if function:
            getattr(found, function)()
    dtype: torch.dtype = getattr(torch, options.dtype)
    device = torch.device(options.device, 0)
    pipe = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what operators print is not ours
    known = {full_name(op): op for op in op_db}
    pipe.write('{"ready": true}\n')

    def say(**message: Any) -> None:
        pipe.write(json.dumps(message) + "\n")

    for name in options.ops.split(","):
        op = known[name]
        say(start=name)
        if dtype not in op.supported_dtypes("cpu"):
            say(name=name, counts={}, skipped=True)
            continue
        try:
            found = check_operator(op, dtype, device, lambda index, name=name: say(sample=index))
        except Exception as error:  # noqa: BLE001 - its own samples cannot be made: reported, not counted
            found = {"counts": {}, "failed": f"{type(error).__name__}: {str(error)[:200]}"}
        say(name=name, **found)


def run_all(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    start = time.monotonic()
    names = operator_names()
    if options.ops:
        wanted = set(options.ops.split(","))
        names = [name for name in names if name in wanted or name.partition("/")[0] in wanted]
    slices: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    for first in range(0, len(names), options.slice):
        slices.put(names[first : first + options.slice])
    results: dict[str, Any] = {}
    workers = [
        threading.Thread(target=_work, args=(options, slices, results)) for _ in range(options.processes)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    totals: Counter[str] = Counter()
    for found in results.values():
        totals.update(found["counts"])
    return {
        "device": options.device,
        "dtype": options.dtype,
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "command": f"python -m tests.conformance.run --device {options.device} --dtype {options.dtype}",
        "seconds": time.monotonic() - start,
        "num_ops": sum(bool(set(found["counts"]) - {"not_counted"}) for found in results.values()),
        "totals": dict(totals),
        "ops": {name: results[name] for name in names if name in results},
    }


def _work(options: argparse.Namespace, slices: queue.SimpleQueue[list[str]], results: dict[str, Any]) -> None:
    while True:
        try:
            names = slices.get_nowait()
        except queue.Empty:
            return
        while names:
            names = _run_slice(options, names, results)


def _run_slice(options: argparse.Namespace, names: list[str], results: dict[str, Any]) -> list[str]:
    """Check ``names`` in one child; return those that are left if it died."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.conformance.run",
        "--child",
        "--ops",
        ",".join(names),
    ]
    command += ["--device", options.device, "--dtype", options.dtype]
    command += ["--activate", options.activate] if options.activate else []
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(child.stdout, lines), daemon=True).start()
    current, sample = names[0], -1
    ready = stalled = False
    while True:
        try:
            # The first line may take minutes: the device is compiled on first use.
            line = lines.get(timeout=options.timeout_s if ready else None)
        except queue.Empty:
            stalled = True
            child.kill()
            break
        if line is None:
            break
        message = json.loads(line)
        ready = True
        if "ready" in message:
            continue
        if "start" in message:
            current, sample = message["start"], -1
        elif "sample" in message:
            sample = message["sample"]
        else:
            results[message.pop("name")] = message
    code = child.wait()
    left = [name for name in names if name not in results]
    if left:
        reason = (
            f"no answer within {options.timeout_s:.0f} s" if stalled else f"the process ended with {code}"
        )
        results[current] = {
            "counts": {"different": 1},
            "reasons": {"different": {reason: 1}},
            "first_sample": {reason: sample},
        }
        left = [name for name in left if name != current]
    return left


def _read(stream: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


if __name__ == "__main__":
    sys.exit(main())
