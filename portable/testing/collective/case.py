"""What every rank does in the contract test of groups; results travel back as JSON."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from portable.collective.protocol import Group, ReduceOp
from portable.core.errors import CollectiveError, PortableError
from portable.device.capability import DTYPES, Capability, Role, Support
from portable.testing.selection import configured_backend

FACTOR = 0.5


def run(backend_name: str) -> dict[str, Any]:
    """Call everything that a group offers, with values that every format holds exactly."""
    group, where = join(backend_name, 60.0)
    results = {
        "place": [group.rank, group.size, group.axis, list(group.ranks), group.process_group is not None],
        "resolution": group.resolution(),
        "refused": _refusals(group, where),
        "dtypes": dtypes_of(group, where, configured_backend(backend_name).device().capability()),
        **call_all(group, where),
    }
    group.close()
    return results


def call_all(group: Group, where: torch.device) -> dict[str, Any]:
    """Call each reduction and each move; ``expected`` has what must come out."""
    results = {**_reductions(group, where), **_moves(group, where), **_host_values(group)}
    if group.size > 1:
        results |= _pairs(group, where)
    group.barrier()
    return results


def join(backend_name: str, timeout_s: float, **options: bool) -> tuple[Group, torch.device]:
    """Return the group of all, and this rank's device."""
    backend = configured_backend(backend_name)
    device = backend.device()
    group = backend.group(timeout_s, **options)
    device.set_index(group.local_rank)
    return group, device.torch_device(group.local_rank)


def own(group: Group, where: torch.device) -> Tensor:
    return torch.tensor([[1.0, -2.0], [3.0, 4.0]], device=where) * (group.rank + 1)


def blocks(group: Group, where: torch.device) -> Tensor:
    return torch.arange(2.0 * group.size, device=where).reshape(group.size * 2, 1) + 10 * group.rank


def _reductions(group: Group, where: torch.device) -> dict[str, Any]:
    mine, kept = own(group, where), own(group, where)
    strided = torch.arange(6.0, device=where).reshape(2, 3).t() + group.rank
    many = [mine, torch.tensor(group.rank, device=where, dtype=torch.int32), mine[:1] + 1, mine[:0]]
    factors = {op: {"factor": FACTOR} if op is ReduceOp.premul_sum else {} for op in ReduceOp}
    return {
        **{f"reduce_{op.name}": group.all_reduce(mine, op, **factors[op]).tolist() for op in ReduceOp},
        **{f"scatter_{op.name}": group.reduce_scatter(blocks(group, where), op, **factors[op]).tolist()
           for op in ReduceOp},
        "reduce_strided": group.all_reduce(strided).tolist(),
        "reduce_scalar": group.all_reduce(torch.tensor(2.0, device=where)).item(),
        "reduce_nothing": list(group.all_reduce(mine[:0]).shape),
        "reduce_many": [part.tolist() for part in group.all_reduce_many(many)],
        "unchanged": torch.equal(mine.cpu(), kept.cpu()),
    }  # fmt: skip


def _moves(group: Group, where: torch.device) -> dict[str, Any]:
    mine, size, rank = own(group, where), group.size, group.rank
    ragged = torch.full((rank, 2), float(rank), device=where)
    counts = [(rank + target) % 3 for target in range(size)]
    rows = torch.repeat_interleave(torch.arange(size), torch.tensor(counts)).float().to(where) + 10 * rank
    received, received_counts = group.all_to_all_uneven(rows, counts)
    again, _ = group.all_to_all_uneven(rows, counts, received_counts)
    gathered = group.gather(mine, size - 1)
    return {
        "gather_all": group.all_gather(mine).tolist(),
        "gather_scalar": group.all_gather(torch.tensor(float(rank), device=where)).tolist(),
        "gather_ragged": [part.tolist() for part in group.all_gather_uneven(ragged)],
        "gather_last": None if gathered is None else gathered.tolist(),
        "to_all": group.all_to_all(blocks(group, where)).tolist(),
        "to_all_ragged": [received.tolist(), received_counts],
        "to_all_again": torch.equal(received.cpu(), again.cpu()),
        "broadcast_first": group.broadcast(mine).tolist(),
        "broadcast_last": group.broadcast(mine, source=size - 1).tolist(),
        "broadcast_many": [
            part.tolist() for part in group.broadcast_many([mine, mine.bfloat16(), mine > 0], source=size - 1)
        ],
        "scatter_last": group.scatter(blocks(group, where), source=size - 1).tolist(),
    }


def _host_values(group: Group) -> dict[str, Any]:
    last = group.size - 1
    return {
        "sum_scalar": group.sum_scalar(2**40 + group.rank + 0.25),
        "object": group.broadcast_object({"rank": group.rank, "text": "é" * group.rank}, source=last),
        "objects": group.all_gather_object("x" * group.rank),
    }


def _pairs(group: Group, where: torch.device) -> dict[str, Any]:
    """Go round the ring, which rank 0 starts; then send both ways at once, odd ranks in another order; then
    begin two exchanges, and end the second first.
    """
    mine, rank = own(group, where), group.rank
    after, before = (rank + 1) % group.size, (rank - 1) % group.size
    if rank == 0:
        group.send(mine, after)
        ring = group.recv(mine, before)
    else:
        ring = group.recv(mine, before)
        group.send(mine, after)
    large = torch.full((1 << 20,), float(rank), device=where)  # more than a transport holds on its way
    small = torch.full((3,), rank, device=where, dtype=torch.int32)
    turn = -1 if rank % 2 and group.size > 2 else 1  # between two ranks the order counts
    landed = group.exchange(
        [(large, after), (small, before)][::turn], [(large, before), (small, after)][::turn]
    )
    from_before, from_after = landed[::turn]
    begun = [group.begin_exchange([(tensor, after)], [(mine, before)]) for tensor in (mine, -mine)]
    return {
        "ring": ring.tolist(),
        "exchange": [from_before.unique().tolist(), from_after.tolist()],
        "exchange_none": group.exchange([], []),
        "exchange_begun": [begun[1].take(0).tolist(), *(item.wait()[0].tolist() for item in begun[:1])],
        "exchange_taken": len(begun[1].wait()),
    }


def dtypes_of(group: Group, where: torch.device, capability: Capability) -> dict[str, Any]:
    """Reduce and move every format; the device's own claims say which it must refuse."""
    results: dict[str, Any] = {}
    for name, torch_name in DTYPES.items():
        if capability.dtype(Role.storage, name) is Support.none:
            continue
        dtype = getattr(torch, torch_name)
        ones = torch.ones(2 * group.size, 3).to(dtype).to(where)
        results[name] = {
            "claimed": capability.dtype(Role.collective, name).name,
            "sum": told(lambda ones=ones: _numbers(group.all_reduce(ones)[0])),
            "scatter": told(lambda ones=ones: _numbers(group.reduce_scatter(ones)[0])),
            "max": told(lambda ones=ones: _numbers(group.all_reduce(ones, ReduceOp.max)[0])),
            "mean": told(lambda ones=ones: _numbers(group.all_reduce(ones, ReduceOp.mean)[0])),
            "broadcast": told(lambda ones=ones: _numbers(group.broadcast(ones)[0])),
            "to_all": told(lambda ones=ones: _numbers(group.all_to_all(ones)[0])),
            "gather": told(lambda ones=ones: _numbers(group.all_gather(ones)[-1, 0])),
        }
    if "fp16" in results and results["fp16"]["claimed"] != "none":
        large = torch.full((2,), 60000.0, device=where, dtype=torch.float16)
        results["fp16"]["large_mean"] = group.all_reduce(large, ReduceOp.mean).tolist()
    mine = torch.tensor([group.rank == 0], device=where)
    results["bool"]["any"] = told(lambda: group.all_reduce(mine).tolist())
    results["bool"]["all"] = told(lambda: group.all_reduce(mine, ReduceOp.product).tolist())
    return results


def _numbers(tensor: Tensor) -> list[float]:
    return tensor.cpu().to(torch.complex64).real.tolist()


def _refusals(group: Group, where: torch.device) -> dict[str, Any]:
    """Calls that send nothing: the group works on as if they had not been made."""
    mine = own(group, where)
    return {
        "source": told(lambda: group.broadcast(mine, source=group.size)),
        "target": told(lambda: group.gather(mine, target=-1)),
        "self": told(lambda: group.send(mine, group.rank)),
        "scalar": told(lambda: group.all_to_all(mine[0, 0])),
        "counts": told(lambda: group.all_to_all_uneven(mine, [2] * (group.size + 1))),
        "int_mean": told(lambda: group.all_reduce(mine.int(), ReduceOp.mean)),
        "factor": told(lambda: group.all_reduce(mine, factor=2.0)),
        "parts": told(lambda: group.split("tp", [[0], [0]])),
    }


def told(call: Callable[[], Any]) -> Any:
    """Return the result, or the name of our error."""
    try:
        return call()
    except PortableError as error:
        return type(error).__name__


def axes(backend_name: str) -> dict[str, Any]:
    """Split four ranks into a 2 x 2 mesh, and into two nodes."""
    os.environ["GROUP_RANK"] = str(int(os.environ["RANK"]) // 2)
    group, where = join(backend_name, 60.0)
    rows = group.split("tp", [[0, 1], [2, 3]])
    columns = group.split("dp", [[2, 0], [3, 1]])
    some = group.subgroup("odd", [3, 1])
    mine = torch.tensor([float(group.rank)], device=where)
    nodes = group.by_node()
    values = torch.linspace(-1, 1, 13, device=where) * (group.rank + 1)
    kept = {op: group.all_reduce(values, op) for op in (ReduceOp.sum, ReduceOp.mean, ReduceOp.max)}
    differences = {
        op.name: (nodes.hierarchical_all_reduce(values, op) - flat).abs().max().item()
        for op, flat in kept.items()
    }
    half = nodes.hierarchical_all_reduce(values, ReduceOp.premul_sum, factor=0.5) * 2
    differences["premul_sum"] = (half - kept[ReduceOp.sum]).abs().max().item()
    results = {
        "rows": [rows.axis, rows.rank, rows.all_reduce(mine).item()],
        "columns": [
            columns.axis,
            columns.rank,
            list(columns.ranks),
            columns.all_gather(mine).flatten().tolist(),
        ],
        "some": some.all_gather(mine).flatten().tolist() if some else None,
        "nodes": [list(nodes.inside.ranks), list(nodes.between.ranks)],
        "differences": differences,
        "wrapped": type(rows.process_group).__name__,
        "refused": told(lambda: rows.subgroup("cp", [0])),
    }
    group.close()
    return results


def out_of_step(backend_name: str) -> dict[str, Any]:
    """The last rank calls something else each time; nobody is lost, so the group lives on."""
    group, where = join(backend_name, 60.0)
    last, two = group.rank == group.size - 1, torch.ones(2, device=where)
    messages = {
        "order": message(lambda: group.broadcast(two) if last else group.all_reduce(two)),
        "shape": message(lambda: group.all_reduce(two[:1] if last else two)),
        "dtype": message(lambda: group.all_gather(two.int() if last else two)),
        "op": message(lambda: group.all_reduce(two, ReduceOp.max if last else ReduceOp.sum)),
        "host": message(lambda: group.sum_scalar(1) if last else group.barrier()),
        "still_works": group.all_reduce(two).tolist(),
    }
    group.close()
    return messages


def lost(backend_name: str, how: str, guilty: str, where_lost: str, timeout_s: str) -> dict[str, Any]:
    """One rank dies, sleeps or freezes before a call; returns what the others are told, and how soon."""
    group, where = join(backend_name, float(timeout_s))
    two = torch.ones(2, device=where)
    group.all_reduce(two)
    axis = group.split("tp", [[0], list(range(1, group.size))]) if where_lost == "axis" else group
    step = _wrapped_step(group, where) if where_lost == "wrapper" else lambda: axis.all_reduce(two).tolist()
    step()
    if group.rank == int(guilty):
        _lose(how, float(timeout_s))
    if axis is not group and group.rank == 0:  # not on that axis; it has nothing to wait for
        time.sleep(1.5 * float(timeout_s))
        return {"message": "none", "seconds": 0.0}
    started = time.monotonic()
    text = message(step)
    return {"message": text, "seconds": time.monotonic() - started, "again": message(group.barrier)}


def _lose(how: str, timeout_s: float) -> None:
    if how == "dies":
        os._exit(3)
    if how == "freezes":
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(1.5 * timeout_s)
    os._exit(0)


def _wrapped_step(group: Group, where: torch.device) -> Callable[[], None]:
    """Return a training step in which torch's own wrapper communicates."""
    model = DistributedDataParallel(nn.Linear(2, 1).to(where), process_group=group.process_group)

    def step() -> None:
        with group.naming_ranks("the training step"):  # the wrapper's forward communicates too
            model(torch.ones(1, 2, device=where)).sum().backward()

    return step


def message(call: Callable[[], Any]) -> str:
    """Return what a CollectiveError says; other errors pass."""
    try:
        call()
    except CollectiveError as error:
        return str(error)
    return "no error"
