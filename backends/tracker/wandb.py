"""Weights & Biases. Written against wandb 0.31; its own variables (WANDB_MODE, WANDB_ENTITY ...) hold."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backends.tracker.package import RunSink, import_tracker, run_id


def open_wandb(folder: Path, project: str, settings: Mapping[str, Any]) -> RunSink:  # Any: JSON values
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
    return RunSink(run)
