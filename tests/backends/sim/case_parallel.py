"""Ranks of a small model spread over two simulated devices, and the same on one CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed._functional_collectives import all_reduce
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from tests.backends.sim.case_collective import join

NUM_STEPS = 4


def new_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)) for _ in range(3)])


def batch(step: int) -> torch.Tensor:
    return torch.randn(4, 16, generator=torch.Generator().manual_seed(step))


def losses_of(model: nn.Module, rank: int = 0, size: int = 1, place: str = "cpu") -> list[float]:
    """Train; the loss of a step is the mean over all ranks' rows."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(NUM_STEPS):
        rows = batch(step).chunk(size)[rank].to(place)
        loss = model(rows).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach().to("sim") if size > 1 else loss.detach()
        if size > 1:
            dist.all_reduce(mean, op=dist.ReduceOp.AVG)
        losses.append(mean.item())
    return losses


def on_cpu() -> list[float]:
    return losses_of(new_model())


def ddp(rank: int) -> list[float]:
    model = DistributedDataParallel(new_model().to("sim"), device_ids=[rank])
    return losses_of(model, rank, 2, "sim")


def fsdp(rank: int, kind: str = "plain") -> list[float]:
    mesh = init_device_mesh("sim", (2,))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16) if kind == "mixed" else MixedPrecisionPolicy()
    offload = CPUOffloadPolicy() if kind == "offload" else OffloadPolicy()
    model = new_model().to("sim")  # torch cannot swap the data of a CPU parameter for an out-of-tree device's
    for block in model:
        fully_shard(block, mesh=mesh, mp_policy=policy, offload_policy=offload)
    fully_shard(model, mesh=mesh, mp_policy=policy, offload_policy=offload)
    return losses_of(model, rank, 2, "sim")


def tensor_parallel() -> list[float]:
    mesh = init_device_mesh("sim", (2,))
    model = new_model().to("sim")
    for block in model:
        parallelize_module(block, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    losses = []
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(NUM_STEPS):
        loss = model(batch(step).to("sim")).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def sharded_checkpoint(rank: int, folder: str) -> dict[str, Any]:
    """Save from FSDP, load into another FSDP model, and compare."""
    mesh = init_device_mesh("sim", (2,))
    saved, loaded = new_model().to("sim"), new_model().to("sim")
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.zero_()
    for model in (saved, loaded):
        fully_shard(model, mesh=mesh)
    losses_of(saved, rank, 2, "sim")
    dcp.save(get_model_state_dict(saved), checkpoint_id=Path(folder) / "checkpoint")
    state = get_model_state_dict(loaded)
    dcp.load(state, checkpoint_id=Path(folder) / "checkpoint")
    same = all(
        torch.equal(left.to_local(), right.to_local())
        for left, right in zip(saved.parameters(), loaded.parameters(), strict=True)
        if isinstance(left, DTensor) and isinstance(right, DTensor)
    )
    return {"same": same, "files": len(list((Path(folder) / "checkpoint").glob("*.distcp")))}


def dtensors() -> dict[str, Any]:
    """Distribute, redistribute, draw and reduce."""
    mesh = init_device_mesh("sim", (2,))
    whole = torch.arange(12.0, device="sim").reshape(4, 3)
    sharded = distribute_tensor(whole, mesh, [Shard(0)])
    back = sharded.redistribute(mesh, [Replicate()]).to_local()
    columns = sharded.redistribute(mesh, [Shard(1)]).full_tensor()
    torch.sim.manual_seed(3)
    random = torch.distributed.tensor.rand(4, 3, device_mesh=mesh, placements=[Shard(0)])
    full = random.full_tensor()
    return {
        "replicated": torch.equal(back, whole),
        "columns": torch.equal(columns, whole),
        "rows_differ": not torch.equal(full[:2], full[2:]),
        "random": full.sum().item(),
        "functional": all_reduce(torch.ones(2, device="sim"), "sum", mesh).tolist(),
        "sum": sharded.sum().full_tensor().item(),
    }


def every_way(folder: str) -> dict[str, Any]:
    """Run all of the above in one pair of processes."""
    simulator, rank = join()
    found: dict[str, Any] = {
        "ddp": ddp(rank),
        "fsdp": fsdp(rank),
        "fsdp_offload": fsdp(rank, "offload"),
        "fsdp_mixed": fsdp(rank, "mixed"),
        "tensor_parallel": tensor_parallel(),
        "checkpoint": sharded_checkpoint(rank, folder),
        "dtensors": dtensors(),
        "fallbacks": simulator.fallback_counts(),
    }
    dist.destroy_process_group()
    return found
