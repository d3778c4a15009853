"""What the trackers share: an optional package, and a run that is known by its folder."""

import hashlib
import importlib
from pathlib import Path
from types import ModuleType

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
