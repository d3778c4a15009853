"""What runs in processes of its own, each on one kind of device: the command line, called several times."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from portable.cli.main import main
from portable.core.metric import read_metrics
from portable.model.mlp import Mlp
from portable.trace.recording import Recording

SMALL = (
    "model.num_layers=5",
    "model.vocab_size=280",
    "model.hidden_size=32",
    "model.intermediate_size=48",
    "model.num_heads=4",
    "model.num_kv_heads=2",
    "model.head_dim=8",
    "model.max_seq_len=64",
    "seq_len=32",
    "micro_batch_size=2",
    "global_batch_size=4",
    "kernel.self_test=off",  # it would find some of the planted kernels before they are used
)


def call(*words: str) -> dict[str, Any]:
    """Return the exit code of ``portable trace``, and what went to the two outputs."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = main(["trace", *words])
    return {"code": code, "out": out.getvalue(), "error": error.getvalue()}


def on_cpu(corpus: str, folder: str) -> dict[str, Any]:
    """Record steps on the processor; return what that said, and what the job reports without a trace."""
    job = ("pretrain", f"data={corpus}", *SMALL, "hardware=cpu", "steps=3", "schedule.warmup_steps=1")
    files = {name: f"{folder}/{name}" for name in ("step.trace", "second.trace")}
    results = {
        "record": call("record", *job, "--out", files["step.trace"]),
        "second": call("record", *job, "--step", "2", "--micro-batch", "2", "--out", files["second.trace"]),
        "same": call("compare", files["second.trace"], "hardware=cpu"),
        "other rows": call("compare", files["step.trace"], "hardware=cpu", "kernel.allow=[reference]"),
        "other model": call("compare", files["step.trace"], "hardware=cpu", "model.num_layers=4"),
        "no step": call("record", *job, "--step", "4", "--out", f"{folder}/none"),
        "no micro-batch": call("record", *job, "--micro-batch", "3", "--out", f"{folder}/none"),
    }
    plain = Path(folder) / "plain"
    assert main([*job, f"output_dir={plain}"]) == 0
    results["plain"] = read_metrics(plain / "metrics.jsonl")[0]
    results["header"] = Recording.load(Path(files["step.trace"])).header
    return results


def spread(corpus: str, folder: str) -> dict[str, Any]:
    return call(
        "record",
        "pretrain",
        f"data={corpus}",
        *SMALL,
        "hardware=cpu",
        "strategy=ddp",
        "--out",
        f"{folder}/none",
    )


def compare(file: str, cases: str) -> dict[str, Any]:
    """Return what is said of ``file`` under each of the named ``cases``: lists of overrides, in JSON."""
    found: dict[str, Any] = {}
    for name, overrides in json.loads(cases).items():
        with wrong_residual() if name == "outside of a kernel" else contextlib.nullcontext():
            as_json = call("compare", file, *overrides, "--json")
        found[name] = {"code": as_json["code"], **json.loads(as_json["out"])}
    return found


@contextlib.contextmanager
def wrong_residual() -> Iterator[None]:
    """Let the feed-forward layer of layer 3 scale what its last operator returns."""
    from planted_rows import wrong_here

    forward = Mlp.forward

    def wrong(self: Mlp, x_BTD: Tensor) -> Tensor:
        return forward(self, x_BTD) * (1.001 if wrong_here() else 1.0)

    Mlp.forward = wrong
    try:
        yield
    finally:
        Mlp.forward = forward
