"""Weights & Biases. Written against wandb 0.31; its own variables (WANDB_MODE, WANDB_ENTITY ...) hold."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backends.tracker.package import import_tracker, run_id


class WandbSink:
    """``run`` is the package's own object, whose type is not known where it is not installed, hence Any."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Log the values that are known. A step that a resumed run repeats is ignored there."""
        self._run.log({name: value for name, value in values.items() if value is not None}, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def open_wandb(folder: Path, project: str, settings: Mapping[str, Any]) -> WandbSink:  # Any: JSON values
    """Start the run of ``folder`` in ``project``, or go on with it; its own files lie in ``folder/wandb``."""
    package = import_tracker("wandb", "wandb")
    run = package.init(
        project=project,
        name=folder.name,
        id=run_id(folder),
        dir=str(folder),
        config=dict(settings),
        resume="allow",
    )
    return WandbSink(run)
