"""What ranks do in the tests of TorchGroup that are not of the contract."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist

from backends.cpu.device import CpuDevice
from portable.collective.launch import join_group
from portable.collective.protocol import ReduceOp
from portable.core.errors import PortableError
from portable.device.capability import Capability, Role, Support
from portable.testing.collective.case import call_all, dtypes_of

ALL = (
    "all_reduce",
    "reduce_scatter",
    "all_gather",
    "all_to_all",
    "broadcast",
    "gather",
    "scatter",
    "send_recv",
)
OPS = ("sum", "mean", "max", "min", "product", "premul_sum")
# Which collectives and reductions are native; the rest must be emulated. Together every stand-in is used.
POOR = {
    "sums": ({"all_reduce", "broadcast", "send_recv", "gather"}, {"sum", "max", "min", "product"}),
    "gathers": (set(ALL) - {"all_reduce", "gather"}, set()),
    "no_broadcast": (set(ALL) - {"broadcast"}, set(OPS) - {"premul_sum"}),
}


class PoorDevice(CpuDevice):
    """A CPU whose transport is said to do less than it does."""

    def __init__(self, which: str, **changes: Any) -> None:
        super().__init__()
        self.collectives, self.reduce_ops = POOR[which]
        self.changes = changes

    def capability(self) -> Capability:
        def supports(names: Any, native: set[str]) -> dict[str, Support]:
            return {name: Support.native if name in native else Support.emulated for name in names}

        formats = dict.fromkeys(("bf16", "fp16", "fp8_e4m3", "fp8_e5m2", "int8", "bool"), Support.emulated)
        formats |= {"fp32": Support.native, "int32": Support.native, "fp64": Support.none}
        full = super().capability()
        poor = replace(
            full,
            collectives=supports(ALL, self.collectives),
            reduce_ops=supports(OPS, self.reduce_ops),
            dtypes={**full.dtypes, Role.collective: formats},
        )
        return replace(poor, **self.changes)


def poor(which: str) -> dict[str, Any]:
    """Call everything on a transport that lacks most of it."""
    device = PoorDevice(which)
    group = join_group(device, 60.0)
    results = {
        "resolution": group.resolution(),
        "dtypes": dtypes_of(group, torch.device("cpu"), device.capability()),
        **call_all(group, torch.device("cpu")),
    }
    group.close()
    return results


def without() -> dict[str, str]:
    """Ask for what a capability does not list."""
    device = PoorDevice(
        "sums", collectives={"all_reduce": Support.native}, reduce_ops={"sum": Support.native}
    )
    group = join_group(device, 30.0)
    two = torch.ones(2)
    calls = {
        "gather": lambda: group.gather(two),
        "send": lambda: group.send(two, 1 - group.rank),
        "max": lambda: group.all_reduce(two, ReduceOp.max),
        "scatter": lambda: group.reduce_scatter(two),
    }
    told = {name: _message(call) for name, call in calls.items()}
    told["sum"] = str(group.all_reduce(two).tolist())
    group.close()
    return told


def named() -> list[str | int]:
    """A communicator whose name differs from torch's."""
    group = join_group(PoorDevice("sums", communicator="fabric"), 30.0, transport="gloo")
    total = int(group.all_reduce(torch.tensor([group.rank + 1], dtype=torch.int32)).item())
    group.close()
    return [group.communicator, total, group.axis]


def hazard() -> dict[str, Any]:
    """Enter torch's coalescing context, which this transport lacks; then let torch and our group add ones."""
    group = join_group(CpuDevice(), 30.0)
    text = "no error"
    try:
        with dist._coalescing_manager(group.process_group, torch.device("cpu")):
            dist.all_reduce(torch.ones(1), group=group.process_group)
    except RuntimeError as error:
        text = str(error)
    by_torch, ones = torch.ones(1), torch.ones(1)
    dist.all_reduce(by_torch, group=group.process_group)
    ours = {
        "all_reduce": group.all_reduce(ones).item(),
        "reduce_scatter": group.reduce_scatter(torch.ones(2)).item(),
        "all_gather": group.all_gather(ones).flatten().tolist(),
        "many": [part.item() for part in group.all_reduce_many([ones, ones])],
    }
    group.close()
    return {"error": text, "torch": by_torch.item(), **ours}


def entered() -> list[int]:
    """Count how often torch's coalescing context is entered while everything of a group is called."""
    times = 0
    original = dist.distributed_c10d._coalescing_manager

    def counting(*arguments: Any, **options: Any) -> Any:
        nonlocal times
        times += 1
        return original(*arguments, **options)

    dist.distributed_c10d._coalescing_manager = dist._coalescing_manager = counting
    group = join_group(CpuDevice(), 30.0)
    call_all(group, torch.device("cpu"))
    group.close()
    return [times]


def unchecked() -> dict[str, Any]:
    """Without the comparison a group computes the same and says that it does not compare."""
    group = join_group(CpuDevice(), 30.0, check_calls=False)
    results = {"calls": group.resolution()["calls"], **call_all(group, torch.device("cpu"))}
    group.close()
    return results


def after_close() -> list[str]:
    """A closed group says so."""
    group = join_group(CpuDevice(), 30.0)
    pair = group.split("tp", [[0, 1]])
    pair.close()
    told = [_message(pair.barrier), str(group.sum_scalar(1))]
    group.close()
    return [*told, _message(group.barrier)]


def passes() -> list[str]:
    """Errors that are not the transport's keep their class and text."""
    group = join_group(CpuDevice(), 30.0)
    told: list[str] = []
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("timed out")):
        try:
            with group.naming_ranks("backward"):
                raise error
        except (RuntimeError, ValueError) as caught:
            told.append(f"{type(caught).__name__}: {caught}")
    told.append(str(group.sum_scalar(1)))
    group.close()
    return told


def cost(num_calls: str) -> list[float]:
    """Return the seconds of a small all_reduce, compared first and not."""
    seconds: list[float] = []
    for check in (False, True):
        group = join_group(CpuDevice(), 60.0, check_calls=check)
        ones = torch.ones(256)
        for _ in range(20):
            group.all_reduce(ones)
        group.barrier()
        started = time.perf_counter()
        for _ in range(int(num_calls)):
            group.all_reduce(ones)
        seconds.append((time.perf_counter() - started) / int(num_calls))
        group.close()
    return seconds


def late(timeout_s: str) -> str:
    """Come to a rendezvous at which one rank is missing."""
    return _message(lambda: join_group(CpuDevice(), float(timeout_s)))


def twice() -> str:
    """Come as rank 0 of a world whose rank 0 has come already; rank 1 is the one that does so."""
    os.environ["RANK"] = os.environ["LOCAL_RANK"] = "1"
    return _message(lambda: join_group(CpuDevice(), 4.0))


def _message(call: Any) -> str:
    try:
        call()
    except PortableError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"
