"""From the launcher's environment to a group."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from portable.collective.local import LocalGroup
from portable.collective.protocol import Group
from portable.core.errors import CollectiveError, ConfigError

_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_NAMES = (*_NUMBERS, "MASTER_ADDR", "MASTER_PORT")
_REMEDY = (
    "start with `torchrun --nproc-per-node=N -m portable ...`, which sets all, or unset all for one process"
)


@dataclass(frozen=True, slots=True)
class LaunchPlace:
    """Where the launcher put this process."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0


def read_place(environment: Mapping[str, str] | None = None) -> LaunchPlace:
    """Read torchrun's variables; without any of them the process is alone.

    Raises: ConfigError if only some are set or one is no sensible number.
    """
    variables = os.environ if environment is None else environment
    given = [name for name in _NUMBERS if name in variables]
    if not given:
        return LaunchPlace()
    missing = [name for name in _NAMES if name not in variables]
    if missing:
        raise ConfigError(f"the environment sets {', '.join(given)} but not {', '.join(missing)}; {_REMEDY}")
    values: dict[str, int] = {}
    for name in _NUMBERS:
        text = variables[name]
        if not text.strip().isdigit():
            raise ConfigError(
                f"the environment sets {name}={text}, which is not a whole number from 0 up; {_REMEDY}"
            )
        values[name] = int(text)
    place = LaunchPlace(values["RANK"], values["WORLD_SIZE"], values["LOCAL_RANK"])
    if place.rank >= place.world_size or place.local_rank > place.rank:
        raise ConfigError(
            f"the environment sets RANK={place.rank}, LOCAL_RANK={place.local_rank}, "
            f"WORLD_SIZE={place.world_size}; ranks go from 0 to WORLD_SIZE - 1 and no local rank is above "
            f"its rank; {_REMEDY}"
        )
    return place


def join_group(
    communicator: str,
    timeout_s: float,
    *,
    transport: str | None = None,
    native_ops: Sequence[str] = ("sum", "max", "min"),
) -> Group:
    """Join this process to its peers; alone, it gets a LocalGroup.

    ``transport`` is torch's name of the communicator where it differs from ours; ``native_ops`` as in
    TorchGroup.
    Raises: ConfigError if the environment is incomplete; CollectiveError if the peers do not come within
    ``timeout_s``.
    """
    place = read_place()
    if place.world_size == 1:
        return LocalGroup()
    from torch.distributed.rendezvous import rendezvous

    from portable.collective.torch_group import TorchGroup

    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        store, rank, world_size = next(
            rendezvous("env://", place.rank, place.world_size, timeout=datetime.timedelta(seconds=timeout_s))
        )
    except RuntimeError as error:
        raise CollectiveError(
            f"rank {place.rank} of {place.world_size} met no peers at MASTER_ADDR:MASTER_PORT={address} "
            f"within communicator.timeout_s={timeout_s:g}; check that rank 0 runs there and that the port "
            f"is free. Torch said: {str(error).splitlines()[0]}"
        ) from error
    return TorchGroup(
        communicator,
        store=store,
        rank=rank,
        size=world_size,
        local_rank=place.local_rank,
        timeout_s=timeout_s,
        transport=transport,
        native_ops=native_ops,
    )
