"""The processes of a certificate: how many a layout needs, and starting them on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence

from portable.core.errors import ConfigError
from portable.parallel.config import ParallelConfig
from portable.parallel.degrees import make_layout

_MOST = 64


def fitting_world(parallel: ParallelConfig, strategy: str) -> int:
    """Return the smallest number of processes that the layout fills, with two readers where the strategy
    leaves their number open.

    Raises: ConfigError if there is none.
    """
    model = (
        parallel.pipeline_parallel_degree * parallel.context_parallel_degree * parallel.tensor_parallel_degree
    )
    problem: ConfigError | None = None
    for readers in range(1 if strategy == "single" else 2, _MOST + 1):
        try:
            return make_layout(parallel, strategy, model * readers).world_size
        except ConfigError as error:
            problem = problem or error
            if strategy == "single":
                break
    raise problem or ConfigError(f"no world of up to {model * _MOST} processes fits the layout")


def run_world(words: Sequence[str], world_size: int) -> int:
    """Run ``portable`` with ``words`` in ``world_size`` processes as a launcher would; return the exit code
    of the first that failed, else 0. Only rank 0 prints its result.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    shared = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "portable", *words],
            env={**os.environ, **shared, **threads, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=None if rank == 0 else subprocess.PIPE,
        )
        for rank in range(world_size)
    ]
    try:
        errors = [process.communicate()[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, text in zip(processes, errors, strict=True):
        if process.returncode and not processes[0].returncode:
            sys.stderr.write((text or b"").decode(errors="replace"))
    return next((abs(process.returncode) for process in processes if process.returncode), 0)
