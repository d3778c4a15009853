"""Optimisers over parts of a model, on several ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from portable.kernel.reference.muon import muon_step
from portable.parallel.config import ParallelConfig
from portable.parallel.gather import gather_whole
from portable.parallel.mesh import Mesh
from portable.parallel.placement import ParameterShard, Placement
from portable.parallel.runtime import Runtime
from portable.testing import runtime as testing_runtime
from portable.train.config import AdamW8bitConfig, CheckpointConfig
from portable.train.next_token import next_token_loss
from portable.train.optim.muon import Muon
from portable.train.trainer import Trainer
from tests.portable.train.support import RowSource, TinyModel, make_runtime, train_config, workspace

STEPS = 3


def muon_off_by(placements: list[Placement], mesh: Mesh) -> list[float]:
    """How far matrices that lie like ``placements`` are from one process's after some steps."""
    generator = torch.Generator().manual_seed(0)
    wholes = [torch.randn(placement.shape, generator=generator) for placement in placements]
    shards = [
        ParameterShard(str(place), nn.Parameter(placement.extent(mesh).of(whole).clone()), placement)
        for place, (placement, whole) in enumerate(zip(placements, wholes, strict=True))
    ]
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}
    muon = Muon(shards, muon_step, mesh, iteration_dtype=torch.float32, **settings)
    momenta = [torch.zeros_like(whole) for whole in wholes]
    for _ in range(STEPS):
        for shard, whole, momentum in zip(shards, wholes, momenta, strict=True):
            gradient = torch.randn(whole.shape, generator=generator)
            shard.parameter.grad = shard.placement.extent(mesh).of(gradient).clone()
            for matrices in zip(*map(_matrices, (whole, gradient, momentum)), strict=True):
                muon_step(*matrices, dtype=torch.float32, **settings)
        muon.step()
    found = [gather_whole(shard.parameter.detach(), shard.placement, mesh) for shard in shards]
    return [float((own - whole).abs().max()) for own, whole in zip(found, wholes, strict=True)]


def _matrices(stack: Tensor) -> list[Tensor]:
    return list(stack.flatten(0, -3)) if stack.ndim > 2 else [stack]


def two_ranks(folder: str) -> dict[str, Any]:
    """Muon on parts of all kinds, then a training with 8-bit moments on sharded parameters."""
    runtime = make_runtime("fsdp")
    placements = [
        Placement((6, 4)).cut(0, "fsdp"),
        Placement((5, 9)).cut(0, "fsdp"),  # uneven: 3 and 2 rows
        Placement((4, 6)).cut(1, "fsdp"),
        Placement((3, 4, 6)).cut(1, "fsdp"),  # a stack, each of its matrices cut
        Placement((4, 5, 3)).cut(0, "fsdp"),  # a stack, its matrices whole
        Placement((1, 4)).cut(0, "fsdp"),  # nothing is left for the second rank
        Placement((4, 4)),
    ]
    report: dict[str, Any] = {"muon": muon_off_by(placements, runtime.mesh)}
    report["adamw8bit"] = train_8bit(Path(folder), runtime)
    runtime.group.close()
    return report


def train_8bit(folder: Path, runtime: Runtime) -> dict[str, Any]:
    """Train, and load the last checkpoint into a run of its own; compare the state, to the bit."""
    first = eight_bit_trainer(folder, runtime)
    first.fit()
    second = eight_bit_trainer(folder, runtime)
    second.resume()
    same = True
    shards = zip(first.model.strategy.shards(), second.model.strategy.shards(), strict=True)
    for own, other in shards:
        states = [
            run.optimizer.parts[0].state[shard.parameter] for run, shard in ((first, own), (second, other))
        ]
        same &= all(torch.equal(states[0][name], states[1][name]) for name in states[0])
        same &= "exp_avg_scale" in states[0]
    return {"same": same, "step": second.step}


def eight_bit_trainer(folder: Path, runtime: Runtime) -> Trainer:
    group = runtime.group
    return Trainer(
        TinyModel(),
        next_token_loss,
        RowSource(2, 4 // group.size, group.rank, group.size),
        train_config(
            5,
            optim=AdamW8bitConfig(lr=0.05, min_size=1, block_size=16),
            checkpoint=CheckpointConfig(every_steps=0),
        ),
        runtime,
        workspace(folder),
    )


def four_ranks() -> list[float]:
    """Muon on matrices that two axes cut."""
    parallel = ParallelConfig(tensor_parallel_degree=2)
    runtime = testing_runtime.make_runtime("cpu", "fsdp", parallel=parallel)
    placements = [
        Placement((6, 8)).cut(0, "tp").cut(0, "fsdp"),
        Placement((7, 5)).cut(0, "tp").cut(1, "fsdp"),
        Placement((6, 8)).cut(1, "tp").cut(0, "fsdp"),
        Placement((4, 6)).cut(1, "tp"),
        Placement((2, 6, 8)).cut(1, "tp").cut(0, "fsdp"),
    ]
    report = muon_off_by(placements, runtime.mesh)
    runtime.group.close()
    return report
