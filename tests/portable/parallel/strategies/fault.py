"""Setups that are not what was asked for, each planted where only a check after wrapping can see it."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from portable.collective.local import LocalGroup
from portable.parallel.config import ParallelConfig
from portable.parallel.placement import Placement
from portable.parallel.runtime import Runtime
from portable.parallel.strategies import fsdp
from portable.testing.runtime import with_strategy
from tests.portable.parallel.strategies.odd import Odd, samples


class Pigeon:
    """A group whose messages go another way than the device's tensors can."""

    def __init__(self, group: object) -> None:
        self._group = group

    def __getattr__(self, name: str) -> object:
        return "pigeon" if name == "communicator" else getattr(self._group, name)


def _wrap(runtime: Runtime, placements: dict[str, Placement] | None = None) -> None:
    runtime.new_strategy().wrap([Odd()], placements or {})


def _alone(strategy: str) -> Callable[[Runtime], None]:
    def plant(runtime: Runtime) -> None:
        own = with_strategy(runtime, strategy)
        own.mesh._groups["data"] = LocalGroup("data")
        _wrap(own)

    return plant


def _other_way(strategy: str) -> Callable[[Runtime], None]:
    def plant(runtime: Runtime) -> None:
        own = with_strategy(runtime, strategy)
        own.mesh._groups["data"] = Pigeon(own.mesh._groups["data"])
        _wrap(own)

    return plant


def _twice(runtime: Runtime) -> None:
    """A parameter is said to be divided over two axes that have all ranks each."""
    _wrap(with_strategy(runtime, "zero1"), {"table": Placement((17, 8), shard="fsdp", replica="batch")})


def _left_whole(runtime: Runtime) -> None:
    with patch.object(fsdp, "fully_shard"):
        _wrap(with_strategy(runtime, "fsdp"))


def _own_group(runtime: Runtime) -> None:
    own = with_strategy(runtime, "fsdp")
    mesh = DeviceMesh.from_group(dist.new_group(), "cpu", mesh_dim_names=("shard",))
    with patch.object(own.mesh, "torch_mesh", lambda *axes: mesh):
        _wrap(own)


def _too_late(runtime: Runtime) -> None:
    own = with_strategy(runtime, "ddp", parallel=ParallelConfig())
    model = Odd()
    strategy = own.new_strategy()
    strategy.wrap([model], {})
    for _ in range(2):
        strategy.accumulate(last=True)
        strategy.backward(model(samples(0, 0)))


ALL: dict[str, Callable[[Runtime], None]] = {
    **{f"{name} alone": _alone(name) for name in ("ddp", "zero1", "zero2", "fsdp")},
    **{f"{name} other way": _other_way(name) for name in ("ddp", "zero1", "zero2", "fsdp")},
    "axes that do not multiply": _twice,
    "left whole": _left_whole,
    "own group": _own_group,
    "too late": _too_late,
}
