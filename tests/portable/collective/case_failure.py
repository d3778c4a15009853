"""Ranks that misbehave, for the tests of what the others are told."""

from __future__ import annotations

import os
import time
from typing import Any

import torch

from portable.collective.launch import join_group
from portable.collective.protocol import ReduceOp
from portable.core.errors import PortableError


def absent(how: str) -> str:
    """Rank 1 never comes to the second collective: it sleeps, or dies. Returns what rank 0 is told."""
    group = join_group("gloo", timeout_s=2.0)
    group.all_reduce(torch.ones(2))
    if group.rank == 1:
        if how == "dies":
            os._exit(0)
        time.sleep(5)
        return "slept"
    started = time.monotonic()
    message = _message(lambda: group.all_reduce(torch.ones(2)))
    assert time.monotonic() - started < 30
    return message


def refusals() -> dict[str, Any]:
    """Calls that a group of two refuses before anything is sent."""
    group = join_group("gloo", timeout_s=30.0, native_ops=("sum",))
    told = {
        "odd_scatter": _message(lambda: group.reduce_scatter(torch.ones(3))),
        "scalar_to_all": _message(lambda: group.all_to_all(torch.tensor(1.0))),
        "int_mean": _message(lambda: group.all_reduce(torch.ones(2, dtype=torch.int64), ReduceOp.mean)),
        "no_max": _message(lambda: group.all_reduce(torch.ones(2), ReduceOp.max)),
        "still_works": group.all_reduce(torch.ones(2), ReduceOp.mean).tolist(),
    }
    group.close()
    return told


def named() -> list[str | int]:
    """A communicator whose name differs from torch's."""
    group = join_group("fabric", timeout_s=30.0, transport="gloo")
    total = int(group.all_reduce(torch.tensor([group.rank + 1])).item())
    group.close()
    return [group.communicator, total]


def _message(call: Any) -> str:
    try:
        call()
    except PortableError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"
