"""SwanLab. Written against swanlab 0.10; its own variables (SWANLAB_MODE, SWANLAB_WORKSPACE ...) hold."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backends.tracker.package import import_tracker, run_id


class SwanlabSink:
    """``run`` is the package's own object, whose type is not known where it is not installed, hence Any."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Log the values that are known."""
        self._run.log({name: value for name, value in values.items() if value is not None}, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def open_swanlab(folder: Path, project: str, settings: Mapping[str, Any]) -> SwanlabSink:  # Any: JSON values
    """Start the run of ``folder`` in ``project``, or go on with it; its files lie in ``folder/swanlab``."""
    package = import_tracker("swanlab", "swanlab")
    run = package.init(
        project=project,
        name=folder.name,
        id=run_id(folder),
        log_dir=str(folder / "swanlab"),
        config=dict(settings),
        resume="allow",
    )
    return SwanlabSink(run)
