"""Run a function in real processes that form a group, as a launcher would start them.

``run_processes("package.module:function", 2, folder, "argument")`` returns what each rank's call returned
(JSON values). The processes can import what this one can.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from portable.core.registry import load_target


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(target: str, place: tuple[int, int, int], folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start one process at ``place`` = (rank, world_size, port)."""
    rank, size, port = place
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    if size > 1:
        environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-W", "ignore", "-m", "portable.testing.process", target]
    command += [str(_result_file(folder, rank)), *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def run_processes(
    target: str, size: int, folder: Path, *arguments: str, timeout_s: float = 180.0
) -> list[Any]:  # Any: JSON values
    """Start ``size`` processes, wait for all, and return their results in rank order.

    A failed one fails the test.
    """
    port = free_port()
    processes = [start(target, (rank, size, port), folder, *arguments) for rank in range(size)]
    try:
        errors = [process.communicate(timeout=timeout_s)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for rank, (process, text) in enumerate(zip(processes, errors, strict=True)):
        assert process.returncode == 0, f"rank {rank} ended with {process.returncode}:\n{text}"
    return [json.loads(_result_file(folder, rank).read_text()) for rank in range(size)]


def _result_file(folder: Path, rank: int) -> Path:
    return folder / f"result-{rank}.json"


def main(words: Sequence[str]) -> None:
    """Be one process: call the target with its arguments and write down what it returned."""
    target, result_file, *arguments = words
    Path(result_file).write_text(json.dumps(load_target(target)(*arguments)))


if __name__ == "__main__":
    main(sys.argv[1:])
