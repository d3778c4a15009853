"""Ranks on this machine, watched by torch's elastic agent."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from portable.core.errors import StoppedError
from portable.core.stop import STOP_SIGNALS
from portable.launcher.command import RankCommand
from portable.launcher.config import LocalLauncherConfig
from portable.launcher.failure import Failure, cause_of, describe

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

_PREFIX = "[rank ${rank}] "


def run_ranks(command: RankCommand, config: LocalLauncherConfig, folder: Path) -> None:
    """Run ``command`` in ``config.processes`` processes to its end.

    What they write is shown with their rank before it, and kept in ``folder/logs``. When one fails the others
    are ended, and all are started again while ``config.max_restarts`` allows it.

    Raises: RankError, with the words and the exit code of the one that failed first; StoppedError if this
    process was asked to end.
    """
    from torch.distributed.elastic.multiprocessing import (
        DefaultLogsSpecs,
        SignalException,
        Std,
    )
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    _set_defaults(config.processes)
    agent = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=config.processes,
        run_id="attempts",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=config.max_restarts,
        shutdown_timeout=config.stop_timeout_s,
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=Std.NONE, tee=Std.ALL),
        log_line_prefix_template=_PREFIX,
        signals_to_handle=",".join(s.name for s in (*STOP_SIGNALS, signal.SIGINT, signal.SIGHUP)),
    )
    try:
        elastic_launch(agent, sys.executable)("-u", "-m", "portable", *command.words)
    except ChildFailedError as error:
        raise cause_of(_failures(error), logs) from error
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from error
        raise StoppedError(
            f"stopped by {error.sigval.name}; the same command with output_dir={folder} continues from the "
            "newest checkpoint"
        ) from error


def _failures(error: ChildFailedError) -> list[Failure]:
    found = sorted(error.failures.items(), key=lambda item: item[1].timestamp)
    failures: list[Failure] = []
    for rank, failure in found:
        said: Any = failure.message  # Any: what the rank's file holds, or torch's words where it wrote none
        failures.append(describe(rank, said if isinstance(said, dict) else {}, failure.exitcode))
    return failures


def _set_defaults(processes: int) -> None:
    """Share the cores among the ranks, and tell them how wide the terminal is that shows their lines."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    width = shutil.get_terminal_size((120, 24)).columns - len(_PREFIX.replace("${rank}", "0"))
    os.environ.setdefault("COLUMNS", str(width))
