"""A job, or a rank of one that a scheduler started, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from portable.core.stop import StopRequest
from portable.launcher.failure import ERROR_FILE, cause_of, complete, failure_path, read_failures


def run_child(words: Sequence[str], folder: Path, rank: int) -> None:
    """Run ``portable WORDS`` as ``rank`` of the run in ``folder``.

    A process serves one kind of device: torch takes no new type after its first backward pass, and some
    variables must stand before it is imported. A job that dies takes no other with it, either.

    Signals that ask this process to end go to the child, which saves its state; when it has, they go to who
    handled them before, e.g. to submitit, which puts the job back into the queue.

    Raises: RankError with the words of the rank that failed first.
    """
    path = failure_path(folder, rank)
    environment = {**os.environ, ERROR_FILE: str(path)}
    command = [sys.executable, "-m", "portable", *words]
    with subprocess.Popen(command, env=environment) as process, StopRequest(process.send_signal) as request:
        code = process.wait()
    request.hand_back()
    if code:
        complete(path, code)
        raise cause_of(read_failures(folder), folder)
