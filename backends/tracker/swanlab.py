"""SwanLab. Written against swanlab 0.10; its own variables (SWANLAB_MODE, SWANLAB_WORKSPACE ...) hold."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backends.tracker.package import RunSink, import_tracker, run_id


def open_swanlab(folder: Path, project: str, settings: Mapping[str, Any]) -> RunSink:  # Any: JSON values
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
    return RunSink(run)
