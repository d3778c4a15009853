"""What every rank runs: the user's command, without the words that ask for ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portable.core.registry import Registry

# Functions of (RankCommand, config, folder): run the ranks to their end, or raise a RankError.
LAUNCHERS = Registry(
    "launcher", {"local": "portable.launcher.local:run_ranks"}, entry_group="portable.launchers"
)
Launcher = Callable[["RankCommand", Any, Path], None]  # Any: the launcher's own config


@dataclass(frozen=True, slots=True)
class RankCommand:
    """``words`` of the command line of a rank, and what schedulers call the device it needs ("": none).

    ``main`` is the target of a function of ``words`` that returns the exit code, for launchers whose ranks
    are not processes that we start.
    """

    words: tuple[str, ...]
    resource: str
    main: str = "portable.cli.main:main"


def without_launcher(overrides: Sequence[str]) -> list[str]:
    """Return ``overrides`` such that the process that gets them is the run, or a rank of it."""
    kept = [
        word for word in overrides if not word.lstrip("+~").startswith(("launcher=", "launcher.", "hydra"))
    ]
    return [*kept, "launcher=local", "launcher.processes=1"]


def in_folder(folder: Path) -> list[str]:
    """Return the overrides that let a run write into ``folder`` and nowhere else."""
    quoted = "'" + str(folder).replace("\\", "\\\\").replace("'", "\\'") + "'"
    return [f"output_dir={quoted}", f"hydra.run.dir={quoted}"]
