"""The door to Ray: it is opened when ranks are started, for the package may not be there."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from portable.core.errors import BackendUnavailable

if TYPE_CHECKING:
    from portable.launcher.command import RankCommand
    from portable.launcher.config import RayLauncherConfig


def run_ranks(command: RankCommand, config: RayLauncherConfig, folder: Path) -> None:
    """Run ``command`` as ``backends.launcher.ray_train`` says. Raises: BackendUnavailable without Ray."""
    if find_spec("ray") is None:
        raise BackendUnavailable(
            "launcher=ray needs the package ray, which is not installed; run pip install "
            "'portable-llm[ray]', or use launcher=local or launcher=slurm"
        )
    from backends.launcher.ray_train import run_ranks as run

    run(command, config, folder)
