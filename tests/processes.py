"""Runs a function in real processes that form a group, as torchrun would start them.

``run_processes("tests.some.module:function", 2, tmp_path, "argument")`` returns what each rank's call
returned (JSON values).
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(target: str, place: tuple[int, int, int], folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start one process at ``place`` = (rank, world_size, port)."""
    rank, size, port = place
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if size > 1:
        environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.processes",
        target,
        str(folder / f"result-{rank}.json"),
        *arguments,
    ]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def run_processes(
    target: str, size: int, folder: Path, *arguments: str, timeout_s: float = 180.0
) -> list[Any]:
    """Start ``size`` processes, wait for all, and return their results in rank order; a failed one fails the
    test.
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
    return [json.loads((folder / f"result-{rank}.json").read_text()) for rank in range(size)]


def main() -> None:
    target, result_file, *arguments = sys.argv[1:]
    module, _, name = target.partition(":")
    result = getattr(importlib.import_module(module), name)(*arguments)
    Path(result_file).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
