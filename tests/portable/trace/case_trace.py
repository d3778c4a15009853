"""What runs in processes of its own, each on one kind of device: the command line, called several times."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from portable.cli.trace import run_trace
from portable.model.mlp import Mlp

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
)


def call(*words: str) -> dict[str, Any]:
    """Return the exit code and the output of ``portable trace``."""
    out, complaint = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(complaint):
        code = run_trace(list(words))
    return {"code": code, "out": out.getvalue()}


def record(corpus: str, file: str, *overrides: str) -> dict[str, Any]:
    return call("record", "pretrain", f"data={corpus}", *SMALL, *overrides, "--out", file)


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
