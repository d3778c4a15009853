"""Why ranks failed: each writes it down, and of all that is found the cause is told.

The files are those that torch's launcher reads and shows.
"""

from __future__ import annotations

import json
import os
import signal
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portable.core.errors import CollectiveError, PortableError

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # where a rank is to write; set by whoever starts it


class RankError(PortableError):
    """A rank failed; the message is the one of the rank that failed first by itself."""

    def __init__(self, text: str, exit_code: int = 1) -> None:
        super().__init__(text)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Failure:
    """How a rank ended. ``is_echo``: perhaps only because of another; it missed that, or was killed."""

    rank: int
    text: str
    exit_code: int
    is_echo: bool


class FailureRecord:
    """While entered, writes an error that leaves it to the file that the launcher named, if one did."""

    def __enter__(self) -> FailureRecord:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        path = os.environ.get(ERROR_FILE)
        if path and isinstance(error, Exception):
            is_ours = isinstance(error, PortableError)
            said = str(error) if is_ours else f"{type(error).__name__}: {error}"
            trace = said if is_ours else "".join(traceback.format_exception(error))
            extra = {"py_callstack": trace, "timestamp": str(int(time.time()))}
            is_echo = isinstance(error, CollectiveError)
            _write(Path(path), {"message": said, "extraInfo": extra, "is_echo": is_echo})


def failure_path(folder: Path, rank: int) -> Path:
    """Return where ``rank`` of the run in ``folder`` writes its failure; what it wrote before is deleted."""
    path = folder / "failures" / f"rank-{rank}.json"
    path.unlink(missing_ok=True)
    return path


def complete(path: Path, returncode: int) -> None:
    """Add to a rank's file how its process ended; make one if it died too fast to write."""
    message = json.loads(path.read_text())["message"] if path.is_file() else {}
    _write(path, {**message, "errorCode": returncode})


def read_failures(folder: Path) -> list[Failure]:
    """Return the failures of the ranks of the run in ``folder``, the oldest first."""
    found = sorted((folder / "failures").glob("rank-*.json"), key=lambda path: path.stat().st_mtime)
    failures: list[Failure] = []
    for path in found:
        message = json.loads(path.read_text())["message"]
        rank = int(path.stem.removeprefix("rank-"))
        failures.append(describe(rank, message, message.get("errorCode", 1)))
    return failures


def describe(rank: int, message: Mapping[str, Any], returncode: int) -> Failure:  # Any: JSON values
    """Return how ``rank`` ended, given what its file says and its exit code in Python's form."""
    text = message.get("message", "")
    if returncode < 0:
        text = text or f"ended by {signal.Signals(-returncode).name}"
        return Failure(rank, text, 128 - returncode, is_echo=True)
    text = text or f"ended with exit code {returncode}"
    return Failure(rank, text, returncode or 1, is_echo=message.get("is_echo", False))


def cause_of(failures: Sequence[Failure], logs: Path) -> RankError:
    """Return the error of the first rank that surely failed by itself; without any, of the first."""
    first = next((failure for failure in failures if not failure.is_echo), failures[0])
    return RankError(f"rank {first.rank}: {first.text} (logs of all ranks: {logs})", first.exit_code)


def _write(path: Path, message: dict[str, Any]) -> None:  # Any: JSON values
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"message": message}), encoding="utf-8")
