"""From the launcher's environment to a group: the processes meet in a store, and connect."""

from __future__ import annotations

import datetime
import itertools
import os
import socket
import uuid
from typing import TYPE_CHECKING, Any

from portable.collective.local import LocalGroup
from portable.collective.place import LaunchPlace, read_place
from portable.collective.protocol import Group
from portable.core.errors import CollectiveError

if TYPE_CHECKING:
    from portable.device.protocol import Device

_joins = itertools.count()  # each group of a process has keys of its own in the store


def join_group(
    device: Device, timeout_s: float, *, transport: str | None = None, check_calls: bool = True
) -> Group:
    """Join this process to its peers; alone, it gets a LocalGroup.

    Tensors of ``device`` travel over its communicator; ``transport`` is torch's name of that where it differs
    from ours. With ``check_calls`` the ranks compare each collective before they begin it.

    Raises: ConfigError if the environment is incomplete; CollectiveError, naming the ranks, if peers do not
    come within ``timeout_s``.
    """
    place = read_place()
    if place.world_size == 1:
        return LocalGroup()
    from portable.collective.torch_group import join_world
    from portable.collective.watch import Watch

    is_agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = meet(place, timeout_s, serves=place.rank == 0 and not is_agents)
    watch = Watch(
        store.clone(),
        place.rank,
        timeout_s,
        keeper=f"the launcher on {place.address}" if is_agents else "rank 0",
        serves=place.rank == 0 and not is_agents,
    )
    return join_world(device, place, store, watch, transport=transport, check_calls=check_calls)


def meet(
    place: LaunchPlace, timeout_s: float, *, serves: bool
) -> Any:  # Any: torch's stores have no public name
    """Return a store in which all ranks have reported.

    Raises: CollectiveError, naming those that have not within ``timeout_s``, or two that claim one rank.
    """
    from torch.distributed import (
        PrefixStore,  # pyright: ignore[reportPrivateImportUsage]  # documented as public
        TCPStore,  # pyright: ignore[reportPrivateImportUsage]
    )

    patience = datetime.timedelta(seconds=timeout_s)
    where = f"MASTER_ADDR:MASTER_PORT={place.address}:{place.port}"
    who = f"rank {place.rank} of {place.world_size}"
    try:
        server = TCPStore(
            place.address, place.port, None, serves, patience, wait_for_workers=False, multi_tenant=True
        )
    except RuntimeError as error:
        problem = "cannot serve the rendezvous at" if serves else "met nobody at"
        remedy = (
            "choose a free port of this host" if serves else "check that rank 0 runs there and is reachable"
        )
        raise CollectiveError(
            f"{who} {problem} {where} within communicator.timeout_s={timeout_s:g}; {remedy}. Torch said: "
            f"{str(error).splitlines()[0]}"
        ) from error
    # An agent's store outlives the ranks that it starts again, perhaps in another number.
    attempt = f"{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}-{place.world_size}"
    store = PrefixStore(f"portable-{attempt}-{next(_joins)}", server)
    keys = [f"here/{rank}" for rank in range(place.world_size)]
    own = f"{socket.gethostname()}, process {os.getpid()}, {uuid.uuid4().hex}"
    try:
        first = store.compare_set(keys[place.rank], "", own).decode()
        if first == own:
            store.wait(keys, patience)
    except RuntimeError as error:
        missing = _not_here(store, keys)
        why = f"rank {', '.join(map(str, missing))} did not come" if missing else "rank 0 gave up or ended"
        raise CollectiveError(
            f"{who} waited at {where}: {why} within communicator.timeout_s={timeout_s:g}; look at its log, "
            "and check that the launcher started all"
        ) from error
    if first != own:
        raise CollectiveError(
            f"two processes claim rank {place.rank} of {place.world_size}: {first.rpartition(',')[0]} came "
            f"to {where} first; start each rank once, or choose another MASTER_PORT for another job"
        )
    return store


def _not_here(store: Any, keys: list[str]) -> list[int]:  # Any: see meet
    try:
        return [rank for rank, key in enumerate(keys) if not store.check([key])]
    except RuntimeError:  # it has ended with the process that served it
        return []
