"""Ranks as workers of a Ray cluster, by Ray Train: it places them, watches them, and starts them again.

Ray's own process group is not used: a worker only learns its place from Ray, and joins the others as under
any launcher. All nodes see the run's folder under one path.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import ray
from ray import train
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError
from ray.train.collective import broadcast_from_rank_zero
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from portable.core.errors import ConfigError
from portable.core.registry import load_target
from portable.launcher.command import RankCommand
from portable.launcher.config import RayLauncherConfig
from portable.launcher.failure import (
    ERROR_FILE,
    Failure,
    RankError,
    cause_of,
    complete,
    failure_path,
    read_failures,
)

_REACH_S = 10.0


def run_ranks(command: RankCommand, config: RayLauncherConfig, folder: Path) -> None:
    """Run ``command`` in ``config.processes`` workers to its end.

    When one fails, all are started again while ``config.max_restarts`` allows it, and continue from the
    newest checkpoint. Raises: RankError, with the words of the one that failed first; ConfigError if no
    cluster answers at ``config.address``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _join_cluster(config)
    trainer = DataParallelTrainer(
        _be_rank,
        train_loop_config={
            "words": command.words,
            "main": command.main,
            "folder": str(folder),
            "directory": str(Path.cwd()),
        },
        scaling_config=_scaling(command.resource.upper(), config),
        run_config=RunConfig(
            name="ray",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=config.max_restarts),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise _cause(error, folder) from error
    finally:
        ray.shutdown()


def _join_cluster(config: RayLauncherConfig) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not config.address:
        num_cpus = max(os.cpu_count() or 1, config.processes * config.cpus_per_process)
        ray.init(address="local", num_cpus=num_cpus, include_dashboard=False)
        return
    try:
        _reach(config.address)
        ray.init(address=config.address)
    except OSError as error:
        raise ConfigError(
            f"launcher.address={config.address}: no Ray cluster answers there ({error}); start one with `ray "
            "start --head`, or leave the address out to have one on this machine"
        ) from error


def _reach(address: str) -> None:
    """Connect to ``HOST:PORT`` once: Ray itself would try for many minutes. Raises: OSError."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _REACH_S).close()


def _scaling(resource: str, config: RayLauncherConfig) -> ScalingConfig:
    """Ask for cores and, where schedulers count the hardware's devices, for one of them per worker."""
    resources = {"CPU": config.cpus_per_process, **({resource: 1} if resource else {})}
    return ScalingConfig(
        num_workers=config.processes,
        use_gpu=resource == "GPU",  # Ray refuses the resource without its flag
        resources_per_worker=resources,
    )


def _be_rank(settings: dict[str, Any]) -> None:
    """Run the command in this worker, at the place that Ray gave it."""
    context = train.get_context()
    rank = context.get_world_rank()
    os.chdir(settings["directory"])  # paths on the command line are the user's
    folder = Path(settings["folder"])
    path = failure_path(folder, rank)
    meeting = broadcast_from_rank_zero(_meeting_point() if rank == 0 else None)
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "GROUP_RANK": str(context.get_node_rank()),
        **meeting,
        ERROR_FILE: str(path),
    }
    code = load_target(settings["main"])(settings["words"])
    if code:
        complete(path, code)
        raise RuntimeError(f"rank {rank} ended with exit code {code}; {path} says why")


def _meeting_point() -> dict[str, str]:
    """Return where all may meet: this node, at a port that is free now."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        port = listener.getsockname()[1]
    return {"MASTER_ADDR": ray.util.get_node_ip_address(), "MASTER_PORT": str(port)}


def _cause(error: TrainingFailedError, folder: Path) -> RankError:
    failures = read_failures(folder)
    if isinstance(error, WorkerGroupError):
        told = {failure.rank for failure in failures}
        failures += [  # those that had no time to write
            Failure(rank, str(reason).splitlines()[0], 1, is_echo=False)
            for rank, reason in error.worker_failures.items()
            if rank not in told
        ]
    if not failures:
        return RankError(f"Ray gave the run up: {str(error).splitlines()[-1]}")
    return cause_of(failures, folder / "ray")
