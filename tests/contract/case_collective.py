"""What every rank does in the contract test of groups; results travel back as lists."""

from __future__ import annotations

from typing import Any

import torch

from portable.collective.protocol import ReduceOp
from portable.core.errors import PortableError
from portable.device.select import load_backend


def run(backend_name: str) -> dict[str, Any]:
    backend = load_backend(backend_name)
    device = backend.device()
    group = backend.group(60.0)
    device.set_index(group.local_rank)
    where = device.torch_device(group.local_rank)
    rank, size = group.rank, group.size
    own = torch.tensor([[1.0, -2.0], [3.0, 4.0]], device=where) * (rank + 1)
    kept = own.clone()
    blocks = torch.arange(2.0 * size, device=where).reshape(size * 2, 1) + 10 * rank
    strided = torch.arange(6.0, device=where).reshape(2, 3).t() + rank
    results: dict[str, Any] = {
        "rank": rank,
        "size": size,
        "communicator": group.communicator,
        "has_process_group": group.process_group is not None,
        **{f"reduce_{op.name}": group.all_reduce(own, op).tolist() for op in ReduceOp},
        "reduce_bf16": group.all_reduce(own.bfloat16(), ReduceOp.mean).float().tolist(),
        "reduce_int": group.all_reduce(torch.tensor([rank + 1], device=where)).tolist(),
        "reduce_strided": group.all_reduce(strided).tolist(),
        "gather": group.all_gather(own).tolist(),
        "gather_scalar": group.all_gather(torch.tensor(float(rank), device=where)).tolist(),
        "scatter_sum": group.reduce_scatter(blocks).tolist(),
        "scatter_mean": group.reduce_scatter(blocks, ReduceOp.mean).tolist(),
        "to_all": group.all_to_all(blocks).tolist(),
        "broadcast_first": group.broadcast(own).tolist(),
        "broadcast_last": group.broadcast(own, source=size - 1).tolist(),
        "sum_scalar": group.sum_scalar(2**40 + rank + 0.25),
        "object": group.broadcast_object({"rank": rank, "text": "é"}, source=size - 1),
        "input_unchanged": bool(torch.equal(own, kept)),
        "bad_source": _error(lambda: group.broadcast(own, source=size)),
    }
    group.barrier()
    group.close()
    return results


def _error(call: Any) -> str:
    try:
        call()
    except PortableError as error:
        return type(error).__name__
    return "none"
