"""What the ranks of a test run in processes of their own: every collective of the simulated communicator."""

from __future__ import annotations

import datetime
from typing import Any

import torch
import torch.distributed as dist

from backends.sim.runtime import Simulator, activate


def join(backend: str = "cpu:gloo,sim:simccl", timeout_s: float = 30.0) -> tuple[Simulator, int]:
    simulator = activate()
    dist.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout_s))
    rank = dist.get_rank()
    torch.accelerator.set_device_index(rank % 2)
    return simulator, rank


def mine(rank: int, shape: tuple[int, ...] = (4,), dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Whole numbers that differ by rank, on the device."""
    count = torch.Size(shape).numel()
    return (torch.arange(count).reshape(shape) + 10 * rank).to(dtype).to("sim")


def every_collective() -> dict[str, Any]:
    """Return what each rank got, as plain lists; the test knows what is right for two ranks."""
    _, rank = join()
    found: dict[str, Any] = {}

    summed = mine(rank)
    dist.all_reduce(summed)
    found["all_reduce"] = summed.tolist()
    for op in ("AVG", "MAX", "MIN", "PRODUCT"):
        reduced = mine(rank)
        dist.all_reduce(reduced, op=getattr(dist.ReduceOp, op))
        found[f"all_reduce_{op}"] = reduced.tolist()
    scaled = mine(rank)
    dist.all_reduce(scaled, op=dist._make_nccl_premul_sum(0.5))
    found["all_reduce_PREMUL_SUM"] = scaled.tolist()
    whole = mine(rank, dtype=torch.int64)
    dist.all_reduce(whole, op=dist.ReduceOp.AVG)
    found["all_reduce_AVG_int"] = whole.tolist()
    pairs = torch.complex(mine(rank), mine(rank))
    dist.all_reduce(pairs)
    found["all_reduce_complex"] = torch.view_as_real(pairs).sum().item()

    gathered = [torch.empty(4, device="sim") for _ in range(2)]
    dist.all_gather(gathered, mine(rank))
    found["all_gather"] = [tensor.tolist() for tensor in gathered]
    joined = torch.empty(8, device="sim", dtype=torch.bfloat16)
    dist.all_gather_into_tensor(joined, mine(rank, dtype=torch.bfloat16))
    found["all_gather_into_tensor"] = joined.float().tolist()
    eight_bit = torch.empty(8, device="sim", dtype=torch.float8_e4m3fn)
    dist.all_gather_into_tensor(eight_bit, mine(rank).to(torch.float8_e4m3fn))
    found["all_gather_fp8"] = eight_bit.float().tolist()

    source = mine(rank, (2, 4))
    kept = source.clone()
    for op in ("SUM", "AVG"):
        part = torch.empty(4, device="sim")
        dist.reduce_scatter_tensor(part, source, op=getattr(dist.ReduceOp, op))
        found[f"reduce_scatter_tensor_{op}"] = part.tolist()
    found["input_kept"] = torch.equal(source, kept)
    part = torch.empty(4, device="sim")
    dist.reduce_scatter(part, list(source.unbind()))
    found["reduce_scatter"] = part.tolist()

    swapped = torch.empty(4, device="sim")
    dist.all_to_all_single(swapped, mine(rank))
    found["all_to_all_single"] = swapped.tolist()
    uneven = torch.empty(2 if rank == 0 else 4, 3, device="sim")
    dist.all_to_all_single(uneven, mine(rank, (3, 3)), [1, 1] if rank == 0 else [2, 2], [1, 2])
    found["all_to_all_uneven"] = uneven.tolist()
    received = [torch.empty(1 + rank, device="sim") for _ in range(2)]
    dist.all_to_all(received, [mine(rank, (1,)), mine(rank, (2,))])
    found["all_to_all"] = [tensor.tolist() for tensor in received]

    sent = mine(rank)
    dist.broadcast(sent, src=1)
    found["broadcast"] = sent.tolist()
    root = mine(rank)
    dist.reduce(root, dst=0)
    found["reduce"] = root.tolist()
    got = [torch.empty(4, device="sim") for _ in range(2)] if rank == 0 else None
    dist.gather(mine(rank), got, dst=0)
    found["gather"] = [tensor.tolist() for tensor in got] if got is not None else None
    share = torch.empty(4, device="sim")
    dist.scatter(share, [mine(0), mine(5)] if rank == 0 else None, src=0)
    found["scatter"] = share.tolist()

    images = mine(rank, (1, 2, 2, 1)).to(memory_format=torch.channels_last)
    dist.all_reduce(images)
    found["channels_last"] = images.flatten().tolist()

    peer = 1 - rank
    arrived = torch.empty(4, device="sim")
    if rank == 0:
        dist.send(mine(rank), peer)
        dist.recv(arrived, peer)
    else:
        dist.recv(arrived, peer)
        dist.send(mine(rank), peer)
    found["send_recv"] = arrived.tolist()
    arrived = torch.empty(4, device="sim")
    for work in dist.batch_isend_irecv(
        [dist.P2POp(dist.isend, mine(rank), peer), dist.P2POp(dist.irecv, arrived, peer)]
    ):
        work.wait()
    found["batch_isend_irecv"] = arrived.tolist()

    dist.barrier()
    objects: list[Any] = [None, None]
    dist.all_gather_object(objects, {"rank": rank})
    found["objects"] = objects
    host = torch.ones(2)
    dist.all_reduce(host)
    found["host"] = host.tolist()
    dist.destroy_process_group()
    return found


def coalescing() -> dict[str, Any]:
    """Several all-reduces as one, then one more: none may be lost."""
    _, rank = join()
    first, second = mine(rank), mine(rank)
    with dist._coalescing_manager(device=torch.device("sim", rank), async_ops=True) as manager:
        dist.all_reduce(first)
        dist.all_reduce(second)
    manager.wait()
    parts = [torch.empty(4, device="sim") for _ in range(2)]
    with dist._coalescing_manager(async_ops=False):
        for part in parts:
            dist.reduce_scatter_tensor(part, mine(rank, (8,)))
    after = mine(rank)
    dist.all_reduce(after)
    return {
        "coalesced": [first.tolist(), second.tolist()],
        "parts": [part.tolist() for part in parts],
        "after": after.tolist(),
    }


def refusals() -> dict[str, Any]:
    """A chip without averages, gather and coalescing refuses, and keeps working."""
    simulator, rank = join()
    simulator.set_chip("chip_x")
    simulator.deny_collectives({"gather", "coalescing"}, {"avg"}, {torch.float64})
    messages = {}

    def attempt(name: str, call: Any, *arguments: Any, **options: Any) -> None:
        try:
            call(*arguments, **options)
        except NotImplementedError as error:
            messages[name] = str(error)

    attempt("avg", dist.all_reduce, mine(rank), op=dist.ReduceOp.AVG)
    attempt("gather", dist.gather, mine(rank), [mine(0), mine(0)] if rank == 0 else None)
    attempt("dtype", dist.all_reduce, mine(rank, dtype=torch.float64))
    try:
        dist.all_reduce(mine(rank, (2, 3)).t())
    except RuntimeError as error:
        messages["strides"] = str(error)
    untouched = mine(rank)

    def coalesce() -> None:
        with dist._coalescing_manager(device=torch.device("sim", rank)):
            dist.all_reduce(untouched)

    attempt("coalescing", coalesce)
    after = mine(rank)
    dist.all_reduce(after)
    return {"messages": messages, "untouched": untouched.tolist(), "after": after.tolist()}


def order() -> dict[str, Any]:
    """Asynchronous collectives order the streams that wait for them, and no others."""
    _, rank = join()
    tensor = mine(rank)
    work = dist.all_reduce(tensor, async_op=True)
    missing = ""
    try:
        tensor.add_(1)
    except torch.AcceleratorError as error:
        missing = str(error)
    work.wait()
    waited = tensor.tolist()
    averaged = mine(rank)
    dist.all_reduce(averaged, op=dist.ReduceOp.AVG, async_op=True)
    torch.accelerator.synchronize()  # completes what nobody waited for
    future = dist.all_reduce(ready := mine(rank), async_op=True).get_future()
    value = future.wait()
    return {
        "missing": missing,
        "waited": waited,
        "synchronized": averaged.tolist(),
        "future": (value[0] if isinstance(value, list) else value).tolist(),
        "same": ready.tolist(),
    }


def alone() -> dict[str, Any]:
    """The communicator without a companion for CPU tensors; a group of its own; a CPU tensor."""
    _, rank = join("simccl")
    tensor = mine(rank)
    dist.all_reduce(tensor)
    group = dist.new_group([0, 1], backend="simccl")
    again = mine(rank)
    dist.all_reduce(again, group=group)
    message = ""
    try:
        dist.all_reduce(torch.ones(1))
    except RuntimeError as error:
        message = str(error)
    objects: list[Any] = [rank + 1]
    dist.broadcast_object_list(objects, src=0)
    return {"sum": tensor.tolist(), "again": again.tolist(), "message": message, "objects": objects}


def late() -> str:
    """Rank 1 does not come: rank 0 gets an error that says who waited where."""
    _, rank = join(timeout_s=2.0)
    others = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=60))
    message = ""
    if rank == 0:
        try:
            dist.all_reduce(mine(rank))
        except RuntimeError as error:
            message = str(error)
    dist.barrier(others)  # so that rank 1 stays reachable until rank 0 is done
    return message
