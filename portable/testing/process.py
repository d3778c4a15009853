"""Run a function in real processes that form a group, as a launcher would start them.

``run_processes("package.module:function", 2, folder, "argument")`` returns what each rank's call returned
(JSON values). The processes can import what this one can.

Most of a start is the import of torch, seconds of it. One server per session imports it once, has no threads
and touches no device; every rank is a fork of it, with the environment that this process has by then.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from functools import cache
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from portable.core.registry import load_target

# What nearly every target imports; none of them asks for a device or reads a setting while it is imported.
PRELOADED = ("portable.testing.runtime", "portable.train.trainer", "torch.distributed.checkpoint")


class Rank:
    """One started process; the methods are those of ``subprocess.Popen``."""

    def __init__(self, process: ForkServerProcess, errors: Path) -> None:
        self._process, self._errors = process, errors

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative if a signal ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code. Raises: TimeoutExpired."""
        self._process.join(timeout)
        if (code := self._process.exitcode) is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0, stderr=self.errors)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[None, str]:
        """Wait for the end and return None and what it wrote. Raises: TimeoutExpired."""
        self.wait(timeout)
        return None, self.errors

    def kill(self) -> None:
        """End it at once, if it still runs."""
        self._process.kill()

    @property
    def errors(self) -> str:
        """What it wrote so far."""
        return self._errors.read_text(errors="replace")


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(target: str, place: tuple[int, int, int], folder: Path, *arguments: str) -> Rank:
    """Start one process at ``place`` = (rank, world_size, port)."""
    rank, size, port = place
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    if size > 1:
        environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    folder.mkdir(parents=True, exist_ok=True)
    errors = folder / f"errors-{rank}.txt"
    errors.touch()
    words = (target, str(_result_file(folder, rank)), *arguments)
    process = _context().Process(target=_be, args=(environment, errors, words), name=target)
    process.start()
    return Rank(process, errors)


def run_processes(
    target: str, size: int, folder: Path, *arguments: str, timeout_s: float = 180.0
) -> list[Any]:  # Any: JSON values
    """Start ``size`` processes, wait for all, and return their results in rank order.

    A failed one fails the test.
    """
    port = free_port()
    ranks = [start(target, (rank, size, port), folder, *arguments) for rank in range(size)]
    deadline = time.monotonic() + timeout_s
    try:
        errors = [rank.communicate(max(0.0, deadline - time.monotonic()))[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    for number, (rank, text) in enumerate(zip(ranks, errors, strict=True)):
        assert rank.returncode == 0, f"rank {number} ended with {rank.returncode}:\n{text}"
    return [json.loads(_result_file(folder, rank).read_text()) for rank in range(size)]


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def _result_file(folder: Path, rank: int) -> Path:
    return folder / f"result-{rank}.json"


def _be(environment: dict[str, str], errors: Path, words: Sequence[str]) -> None:
    """Be one process, which writes to ``errors``: call the target and write down what it returned."""
    with errors.open("a") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    os.environ.clear()
    os.environ.update(environment)
    warnings.simplefilter("ignore")
    target, result_file, *arguments = words
    Path(result_file).write_text(json.dumps(load_target(target)(*arguments)))
