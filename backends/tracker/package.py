"""What trackers share: an optional package, a run that is known by its folder, one that logs steps."""

import hashlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from portable.core.errors import BackendUnavailable


def import_tracker(package: str, extra: str) -> ModuleType:
    """Import ``package``. Raises: BackendUnavailable with the command that installs it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise BackendUnavailable(
            f"metrics.sinks={extra} needs the package '{package}', which cannot be imported ({error}); run: "
            f"pip install 'portable-llm[{extra}]', or take {extra} out of metrics.sinks"
        ) from error


def run_id(folder: Path) -> str:
    """Return what names the run of ``folder`` in a tracker, so that a job that continues it does so there."""
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:20]


class RunSink:
    """``run`` is the package's own object with ``log`` and ``finish``, whose type is not known here, hence
    Any. A step that a resumed run repeats is the package's to ignore.
    """

    def __init__(self, run: Any) -> None:
        self._run = run

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Log the values that are known."""
        self._run.log({name: value for name, value in values.items() if value is not None}, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()
