"""Where a launcher put this process: read from the variables of torchrun, srun or submitit."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from portable.core.errors import ConfigError

# The variables of rank, world size and place on the node: torchrun's (or set by hand), and srun's. A batch
# script that starts a process without srun has SLURM_PROCID too, but no step.
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_SLURM = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
# Those of submitit's tasks on one machine; the job's number is the one of their parent process.
_SUBMITIT = ("SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_NTASKS", "SUBMITIT_LOCAL_LOCALID")
_REMEDY = (
    "start with `torchrun --nproc-per-node=N -m portable ...` or `srun`, which set all, or unset all for one "
    "process"
)
_FIRST_PORT, _NUM_PORTS = 20000, 20000


@dataclass(frozen=True, slots=True)
class LaunchPlace:
    """Where the launcher put this process, and where all meet; ``node`` is the same for all of a node."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    node: str = "0"
    address: str = ""
    port: int = 0


def read_place(environment: Mapping[str, str] | None = None) -> LaunchPlace:
    """Read the variables of torchrun, srun or submitit; without any of them the process is alone.

    Raises: ConfigError, naming the variable, if only some are set or one is no sensible number.
    """
    variables = os.environ if environment is None else environment
    if "1" in (variables.get(names[1]) for names in (_TORCHRUN, _SLURM, _SUBMITIT)):
        return LaunchPlace()
    if any(name in variables for name in _TORCHRUN):
        place = _place(_TORCHRUN, variables, node=variables.get("GROUP_RANK"))
        needed = [*_TORCHRUN, "MASTER_ADDR", "MASTER_PORT"]
        _require(needed, variables)
        return _meeting(place, variables["MASTER_ADDR"], variables["MASTER_PORT"])
    if _SLURM[1] in variables:
        place = _place(_SLURM, variables, node=variables.get("SLURM_NODEID"))
        _require(["SLURM_JOB_ID", "SLURM_NODELIST"], variables)
        job = _number("SLURM_JOB_ID", variables)
        address = variables.get("MASTER_ADDR") or first_host(variables["SLURM_NODELIST"])
        return _meeting(place, address, variables.get("MASTER_PORT", _port_of(job)))
    if _SUBMITIT[1] in variables:
        place = _place(_SUBMITIT, variables, node="0")
        _require(["SUBMITIT_LOCAL_JOB_ID"], variables)
        return _meeting(place, "127.0.0.1", _port_of(_number("SUBMITIT_LOCAL_JOB_ID", variables)))
    return LaunchPlace()


def first_host(node_list: str) -> str:
    """Return the first host of Slurm's list, e.g. ``node07`` of ``node[07-09,12],login1``.

    Raises: ConfigError if the list has another form.
    """
    found = re.match(r"([\w.-]+)(?:\[(\w+)[^\]]*\]([\w.-]*))?(?:,|$)", node_list)
    if found is None:
        raise ConfigError(
            f"SLURM_NODELIST={node_list} cannot be read; set MASTER_ADDR to the host of SLURM_PROCID=0"
        )
    return "".join(part or "" for part in found.groups())


def _port_of(job: int) -> str:
    """Return a port that other jobs on the same node probably do not take."""
    return str(_FIRST_PORT + job % _NUM_PORTS)


def _place(names: tuple[str, str, str], variables: Mapping[str, str], node: str | None) -> LaunchPlace:
    _require(names, variables)
    rank, size, local_rank = (_number(name, variables) for name in names)
    if rank >= size or local_rank > rank:
        raise ConfigError(
            f"the environment sets {names[0]}={rank}, {names[2]}={local_rank}, {names[1]}={size}; ranks go "
            f"from 0 to {names[1]} - 1 and no local rank is above its rank; {_REMEDY}"
        )
    return LaunchPlace(rank, size, local_rank, node or socket.gethostname())


def _meeting(place: LaunchPlace, address: str, port: str) -> LaunchPlace:
    if not port.strip().isdigit() or int(port) > 65535:
        raise ConfigError(f"the environment sets MASTER_PORT={port}; use a port from 1 to 65535")
    return LaunchPlace(place.rank, place.world_size, place.local_rank, place.node, address, int(port))


def _require(names: tuple[str, ...] | list[str], variables: Mapping[str, str]) -> None:
    missing = [name for name in names if name not in variables]
    if missing:
        given = ", ".join(name for name in (*_TORCHRUN, *_SLURM, *_SUBMITIT) if name in variables)
        raise ConfigError(f"the environment sets {given} but not {', '.join(missing)}; {_REMEDY}")


def _number(name: str, variables: Mapping[str, str]) -> int:
    text = variables[name]
    if not text.strip().isdigit():
        raise ConfigError(
            f"the environment sets {name}={text}, which is not a whole number from 0 up; {_REMEDY}"
        )
    return int(text)
