"""The real command, ``portable pretrain`` on a corpus of a few sentences, as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

PATIENCE_S = 400.0
WORDS = (
    "model.vocab_size=300",
    "model.hidden_size=16",
    "model.num_layers=1",
    "model.num_heads=2",
    "model.num_kv_heads=1",
    "model.head_dim=8",
    "model.intermediate_size=32",
    "model.max_seq_len=64",
    "seq_len=32",
    "global_batch_size=8",
    "micro_batch_size=2",
    "schedule.warmup_steps=1",
    "kernel.self_test=off",
    "metrics.sinks=[jsonl]",
)
ENDLESS = ("steps=100000", "checkpoint.every_steps=10", "log_every_steps=5")


def start(corpus: Path, *words: str, variables: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start the command; what it writes comes by ``communicate``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "300", **(variables or {})}
    return subprocess.Popen(
        [sys.executable, "-m", "portable", "pretrain", f"data={corpus}", *WORDS, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return the exit code and all that was written; end what is left, should it hang."""
    try:
        output, _ = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        for child in family(process.pid):
            child.kill()
        process.kill()
        output, _ = process.communicate()
    return process.returncode, output


def run(corpus: Path, *words: str, variables: Mapping[str, str] | None = None) -> str:
    """Run the command to its end, which must be a good one, and return what it wrote."""
    code, output = finish(start(corpus, *words, variables=variables))
    assert code == 0, output
    return output


def family(pid: int) -> list[psutil.Process]:
    """Return all processes below ``pid``."""
    return psutil.Process(pid).children(recursive=True) if psutil.pid_exists(pid) else []


def find(pid: int, word: str, **variables: str) -> psutil.Process:
    """Return the process below ``pid`` with ``word`` in its command and ``variables`` in its environment."""
    found = [
        process
        for process in family(pid)
        if word in process.cmdline() and variables.items() <= process.environ().items()
    ]
    assert found, f"no process with {word} and {variables} below {pid}"
    return found[0]


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait until ``condition`` holds, while ``process`` runs."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, finish(process)
        if time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"nothing came within {PATIENCE_S:g} s")
        time.sleep(0.05)


def newest_step(folder: Path) -> int:
    """Return the step of the newest checkpoint of the run in ``folder``; 0 without any."""
    names = [path.name for path in (folder / "checkpoints").glob("step-*")]
    return max((int(name.removeprefix("step-")) for name in names), default=0)
