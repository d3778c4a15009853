"""What each rank does in the tests of torch_npu's own process group over the emulated HCCL.

Run by ``tests.processes`` under the emulator. Values are small integers: every order of a sum is exact.
"""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
import torch_npu  # noqa: F401 - makes the device known
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

REDUCED_DTYPES = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int32,
    torch.int64,
    torch.int8,
    torch.int16,
)
MOVED_DTYPES = (*REDUCED_DTYPES, torch.float64, torch.uint8, torch.bool)
OPERATIONS: dict[str, tuple[dist.ReduceOp.RedOpType, Callable[[Tensor], Tensor]]] = {
    "sum": (dist.ReduceOp.SUM, lambda rows: rows.sum(0)),
    "prod": (dist.ReduceOp.PRODUCT, lambda rows: rows.prod(0)),
    "max": (dist.ReduceOp.MAX, lambda rows: rows.amax(0)),
    "min": (dist.ReduceOp.MIN, lambda rows: rows.amin(0)),
}


@contextmanager
def group(backend: str, timeout_s: float = 120.0) -> Iterator[tuple[int, int]]:
    """Join the default group; gives (rank, size)."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.npu.set_device(rank)
    dist.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout_s))
    yield rank, size
    dist.destroy_process_group()


def rows_of(size: int, count: int, dtype: torch.dtype) -> Tensor:
    """Row r is what rank r has: small values that differ by rank and place."""
    rows = (torch.arange(count) + torch.arange(size).unsqueeze(1)) % 3 + 1
    return rows.to(dtype) if dtype is not torch.bool else rows > 1


class Checker:
    """Collects the names of the results that are wrong."""

    def __init__(self) -> None:
        self.wrong: list[str] = []

    def __call__(self, name: str, got: Tensor, expected: Tensor) -> None:
        on_device = got.device.type == "npu"
        if not (on_device and got.dtype == expected.dtype and torch.equal(got.cpu(), expected)):
            self.wrong.append(f"{name} {expected.dtype}: {got.cpu()} on {got.device}, not {expected}")


def reduce_everything(backend: str) -> list[str]:
    check = Checker()
    with group(backend) as (rank, size):
        for dtype in REDUCED_DTYPES:
            rows = rows_of(size, 4 * size, dtype)
            mine, own = rows[rank].npu(), slice(4 * rank, 4 * rank + 4)
            for name, (op, reference) in OPERATIONS.items():
                if name == "prod" and dtype in (torch.int16, torch.bfloat16):
                    continue  # not on this chip
                expected = reference(rows).to(dtype)
                whole, part, listed = mine.clone(), mine[own].clone(), mine[own].clone()
                dist.all_reduce(whole, op)
                check(f"all_reduce {name}", whole, expected)
                dist.reduce_scatter_tensor(part, mine, op)
                check(f"reduce_scatter_tensor {name}", part, expected[own])
                dist.reduce_scatter(listed, list(mine.chunk(size)), op)
                check(f"reduce_scatter {name}", listed, expected[own])
                rooted = mine.clone()
                dist.reduce(rooted, size - 1, op)
                if rank == size - 1:
                    check(f"reduce {name}", rooted, expected)
        _reduce_by_composition(check, rank, size)
    return check.wrong


def _reduce_by_composition(check: Checker, rank: int, size: int) -> None:
    """What torch_npu makes of what HCCL lacks: the mean, booleans and bytes."""
    rows = rows_of(size, 4 * size, torch.float32)
    whole, part = rows[rank].npu(), torch.empty(4).npu()
    dist.reduce_scatter_tensor(part, whole, dist.ReduceOp.AVG)
    dist.all_reduce(whole, dist.ReduceOp.AVG)
    check("all_reduce avg", whole, rows.sum(0) / size)
    check("reduce_scatter_tensor avg", part, (rows.sum(0) / size)[4 * rank : 4 * rank + 4])
    for dtype, expected in ((torch.bool, rows_of(size, 5, torch.bool).any(0)), (torch.uint8, None)):
        some = rows_of(size, 5, dtype)
        reduced = some[rank].npu()
        dist.all_reduce(reduced)
        check("all_reduce", reduced, some.sum(0).to(dtype) if expected is None else expected)


def move_everything(backend: str) -> list[str]:
    check = Checker()
    with group(backend) as (rank, size):
        for dtype in MOVED_DTYPES:
            rows = rows_of(size, 3 * size, dtype)
            mine = rows[rank].npu()
            _gather(check, rows, mine, rank, size)
            _exchange(check, rows, mine, rank, size)
        dist.barrier()
    return check.wrong


def _gather(check: Checker, rows: Tensor, mine: Tensor, rank: int, size: int) -> None:
    root = size - 1
    flat, listed = torch.empty_like(rows.flatten()).npu(), [torch.empty_like(mine) for _ in range(size)]
    dist.all_gather_into_tensor(flat, mine)
    check("all_gather_into_tensor", flat, rows.flatten())
    dist.all_gather(listed, mine)
    check("all_gather", torch.stack(listed), rows)
    uneven = [torch.empty(other + 1, dtype=mine.dtype).npu() for other in range(size)]
    dist.all_gather(uneven, mine[: rank + 1].clone())
    check(
        "uneven all_gather", torch.cat(uneven), torch.cat([rows[other, : other + 1] for other in range(size)])
    )
    copy, part = mine.clone(), torch.empty_like(mine[:3])
    dist.broadcast(copy, root)
    check("broadcast", copy, rows[root])
    dist.scatter(part, list(mine.chunk(size)) if rank == root else None, root)
    check("scatter", part, rows[root, 3 * rank : 3 * rank + 3])
    collected = [torch.empty_like(mine) for _ in range(size)] if rank == root else None
    dist.gather(mine, collected, root)
    if collected is not None:
        check("gather", torch.stack(collected), rows)


def _exchange(check: Checker, rows: Tensor, mine: Tensor, rank: int, size: int) -> None:
    expected = torch.cat([row[3 * rank : 3 * rank + 3] for row in rows])
    whole = torch.empty_like(mine)
    dist.all_to_all_single(whole, mine)
    check("all_to_all_single", whole, expected)
    listed = list(torch.empty_like(mine).chunk(size))
    dist.all_to_all(listed, list(mine.chunk(size)))
    check("all_to_all", torch.cat(listed), expected)
    # Rank i sends one more element to its successor than to itself, and the rest to the others.
    to = [_share(rank, other, size) for other in range(size)]
    come = [_share(other, rank, size) for other in range(size)]
    starts = [sum(_share(other, peer, size) for peer in range(rank)) for other in range(size)]
    uneven = torch.empty(sum(come), dtype=mine.dtype).npu()
    dist.all_to_all_single(uneven, mine[: sum(to)].clone(), come, to)
    parts = [rows[other, starts[other] :][: come[other]] for other in range(size)]
    check("uneven all_to_all_single", uneven, torch.cat(parts))


def _share(sender: int, receiver: int, size: int) -> int:
    return 2 if receiver == (sender + 1) % size else 1


def talk(backend: str) -> list[str]:
    """Point to point, batches, asynchronous work, groups of some ranks, objects."""
    check = Checker()
    with group(backend) as (rank, size):
        before, after = (rank - 1) % size, (rank + 1) % size
        mine, theirs = torch.full((4,), float(rank)).npu(), torch.empty(4).npu()
        if rank == 0:
            dist.send(mine, 1)
        elif rank == 1:
            dist.recv(theirs, 0)
            check("recv", theirs, torch.zeros(4))
        works = [dist.P2POp(dist.irecv, theirs, before), dist.P2POp(dist.isend, mine, after)]
        for work in dist.batch_isend_irecv(works):
            work.wait()
        check("batch_isend_irecv", theirs, torch.full((4,), float(before)))
        first, second = mine.clone(), mine + 1
        for handle in [dist.all_reduce(tensor, async_op=True) for tensor in (first, second)]:
            assert handle is not None
            handle.wait()
        total = float(sum(range(size)))
        check("asynchronous all_reduce", first, torch.full((4,), total))
        check("second asynchronous all_reduce", second, torch.full((4,), total + size))
        for members in ([0, 1], [0, size - 1]):
            part = dist.new_group(members)
            if rank in members:
                tensor = mine.clone()
                dist.all_reduce(tensor, group=part)
                check(f"all_reduce of {members}", tensor, torch.full((4,), float(sum(members))))
        objects: list[object] = [None] * size
        dist.all_gather_object(objects, {"rank": rank})
        if objects != [{"rank": other} for other in range(size)]:
            check.wrong.append(f"all_gather_object: {objects}")
    return check.wrong


def block() -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(block(), block())


def train(
    network: nn.Module, batch: Callable[[Tensor], Tensor], mean: Callable[[Tensor], float]
) -> list[float]:
    """Three steps; returns the mean loss over all ranks of each."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for step in range(3):
        torch.manual_seed(step)
        loss = network(batch(torch.randn(4, 16))).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(mean(loss.detach()))
    return losses


def train_on_cpu() -> list[float]:
    return train(model(), lambda batch: batch, lambda loss: loss.item())


def train_sharded(backend: str) -> list[float]:
    """FSDP2 over all ranks."""
    with group(backend) as (rank, size):
        network = model().npu()
        mesh = init_device_mesh("npu", (size,))
        for layer in network:
            fully_shard(layer, mesh=mesh)
        fully_shard(network, mesh=mesh)

        def mean(loss: Tensor) -> float:
            dist.all_reduce(loss, dist.ReduceOp.AVG)
            return loss.item()

        return train(network, lambda batch: batch.chunk(size)[rank].npu(), mean)


def train_tensor_parallel(backend: str) -> list[float]:
    """FSDP2 over one axis of a mesh and tensor parallelism over the other: (1, 2) of two ranks."""
    with group(backend):
        network = model().npu()
        mesh = init_device_mesh("npu", (1, 2), mesh_dim_names=("dp", "tp"))
        for layer in network:
            parallelize_module(layer, mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
            fully_shard(layer, mesh=mesh["dp"])
        return train(network, lambda batch: batch.npu(), lambda loss: loss.item())


def wait_for_another(backend: str, other_does: str) -> tuple[str, float]:
    """Rank 1 does something else than a second all_reduce; returns what rank 0 is told, and how soon."""
    told = ""
    with group(backend) as (rank, _):
        tensor = torch.ones(4).npu()
        dist.all_reduce(tensor)
        if rank == 1 and other_does == "die":
            os._exit(0)
        if rank == 1 and other_does == "stall":
            time.sleep(4.0)
            os._exit(0)
        start = time.monotonic()
        try:
            if rank == 1 and other_does == "gather":
                dist.all_gather_into_tensor(torch.empty(8).npu(), tensor)
            else:
                dist.all_reduce(tensor)
        except RuntimeError as error:
            told = str(error)
        seconds = time.monotonic() - start
    return told, seconds
