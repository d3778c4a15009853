"""Where numbers go while a stage works: one call, any number of sinks."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from portable.core.storage import explain_os_errors


class MetricSink(Protocol):
    """Takes named numbers at a step; units end the names (``time_s``, ``tokens_per_s``)."""

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Record ``values``; None means "not known", and is kept as such."""
        ...

    def close(self) -> None:
        """Flush and release."""
        ...


class NullSink:
    """Drops everything."""

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Drop ``values``."""

    def close(self) -> None:
        """Do nothing."""


class JsonlSink:
    """One JSON object a line: ``{"step": 3, "time": 1700000000.0, "loss": 2.5}``.

    A run that resumes writes a step again; ``read_metrics`` keeps the last line of each step.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with explain_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Append one line and flush it."""
        with explain_os_errors(self.path):
            self._file.write(json.dumps({"step": step, "time": time.time(), **values}) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Fanout:
    """Sends every number to all of ``sinks``."""

    def __init__(self, sinks: Sequence[MetricSink]) -> None:
        self.sinks = tuple(sinks)

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Pass on."""
        for sink in self.sinks:
            sink.write(step, values)

    def close(self) -> None:
        """Close all."""
        for sink in self.sinks:
            sink.close()


def read_metrics(path: Path) -> list[dict[str, float | None]]:
    """Return the lines of a metrics file in step order, the last line of a step winning.

    A file that does not exist has no lines.
    """
    if not path.is_file():
        return []
    rows: dict[int, dict[str, float | None]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line being written when the process was killed
        rows[int(row["step"])] = {**rows.get(int(row["step"]), {}), **row}
    return [rows[step] for step in sorted(rows)]
