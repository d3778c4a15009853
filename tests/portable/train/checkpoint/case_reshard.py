"""Every layout of one world reads every other's checkpoints, in the same processes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from portable.model.config import ModelConfig
from portable.model.init import new_model
from portable.parallel.build import STRATEGIES
from portable.parallel.config import (
    DdpConfig,
    FsdpConfig,
    ParallelConfig,
    SingleConfig,
    StrategyConfig,
    ZeroConfig,
)
from portable.parallel.degrees import make_layout
from portable.parallel.gather import gather_whole
from portable.parallel.mesh import Mesh
from portable.parallel.runtime import Runtime
from portable.parallel.whole import trained_buffers
from portable.train.config import CheckpointConfig, MuonConfig
from portable.train.next_token import next_token_loss
from portable.train.trainer import Trainer
from tests.portable.train.support import RowSource, TinyModel, make_runtime, train_config, workspace

STEPS, ROWS = 2, 8


@dataclass(frozen=True, slots=True)
class Case:
    """A strategy and the degrees it runs with; a model for those that cut it."""

    strategy: StrategyConfig
    degrees: dict[str, Any] = field(default_factory=dict)


DATA_ONLY = {
    "ddp": Case(DdpConfig()),
    "zero1": Case(ZeroConfig(name="zero1")),
    "zero2": Case(ZeroConfig(name="zero2")),
    "zero3": Case(FsdpConfig(name="zero3")),
}
TP2, PP2 = {"tensor_parallel_degree": 2}, {"pipeline_parallel_degree": 2}
TWO = DATA_ONLY | {"tp2": Case(SingleConfig(), TP2), "pp2": Case(SingleConfig(), PP2)}
FOUR = DATA_ONLY | {
    "hsdp": Case(FsdpConfig(name="hsdp"), {"data_parallel_replicate_degree": 2}),
    "tp2": Case(DdpConfig(), TP2),
    "pp2": Case(ZeroConfig(name="zero1"), PP2),
    "tp2 x pp2": Case(SingleConfig(), TP2 | PP2),
}
# Nothing divides evenly over two ranks, but the heads.
SHAPE = ModelConfig(
    vocab_size=19,
    hidden_size=16,
    intermediate_size=21,
    num_layers=3,
    num_heads=2,
    num_kv_heads=2,
    head_dim=8,
    max_seq_len=16,
    tie_embeddings=True,
)


class BiasedModel(TinyModel):
    """A tiny model with a buffer that training changes, as a router's bias is."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.register_buffer("bias", torch.full((3,), float(seed)))
        self.register_buffer("table", torch.ones(3), persistent=False)


def decoder(runtime: Runtime, seed: int) -> nn.Module:
    return new_model(SHAPE, runtime.kernels, seed)


MODELS = {"tiny": lambda runtime, seed: BiasedModel(seed), "decoder": decoder}


def relaid(runtime: Runtime, case: Case) -> Runtime:
    """The same processes in another layout."""
    parallel = ParallelConfig(**case.degrees)
    layout = make_layout(parallel, case.strategy.name, runtime.group.size)
    mesh = Mesh(layout, runtime.group, runtime.device.torch_type)
    target = STRATEGIES.get(case.strategy.name)
    return replace(
        runtime,
        mesh=mesh,
        parallel=parallel,
        strategy=case.strategy.name,
        new_strategy=partial(target, case.strategy, runtime.precision, mesh, runtime.device),
    )


def make_trainer(runtime: Runtime, folder: Path, kind: str, seed: int, **changes: Any) -> Trainer:
    readers = runtime.readers
    return Trainer(
        MODELS[kind](runtime, seed),
        next_token_loss,
        RowSource(ROWS // readers.size // 2, 2, readers.rank, readers.size),
        train_config(STEPS, optim=MuonConfig(), checkpoint=CheckpointConfig(every_steps=0), **changes),
        runtime,
        workspace(folder),
    )


def whole_state(trainer: Trainer) -> dict[str, str]:
    """A hash of every whole tensor of the state, over all pipeline stages; the same on all ranks."""
    mesh = trainer.runtime.mesh
    own: dict[str, str] = {}
    for name, (tensor, shard) in trainer.model.strategy.state().items():
        whole = tensor if shard is None else gather_whole(tensor, shard.placement, mesh)
        own[name] = hashlib.sha256(whole.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
    for name, buffer in trained_buffers(trainer.model.parts):
        own[f"buffer/{name}"] = str(buffer.tolist())
    together: dict[str, str] = {}
    for held in trainer.runtime.group.all_gather_object(own):
        for name, value in held.items():
            assert together.setdefault(name, value) == value, f"ranks differ in {name}"
    return together


def reshard(folder: str, kind: str) -> dict[str, Any]:
    """Train and save in each layout of this world, then read each one's checkpoint in each.

    Returns the pairs that differ, and where; what was saved; and how each layout divides the model.
    """
    base = make_runtime("ddp")
    cases = DATA_ONLY if kind == "tiny" else {2: TWO, 4: FOUR}[base.group.size]
    runtimes = {name: relaid(base, case) for name, case in cases.items()}
    saved: dict[str, dict[str, str]] = {}
    cuts: dict[str, list[str]] = {}
    for name, runtime in runtimes.items():
        trainer = make_trainer(runtime, Path(folder) / name, kind, seed=3)
        for _, buffer in trained_buffers(trainer.model.parts):
            buffer.fill_(7.0)
        trainer.fit()
        saved[name] = whole_state(trainer)
        cuts[name] = _cuts(trainer)
    differing: dict[str, list[str]] = {}
    for writer in saved:
        for reader, runtime in runtimes.items():
            trainer = make_trainer(runtime, Path(folder) / writer, kind, seed=4)
            trainer.resume()
            found = whole_state(trainer)
            wrong = [name for name in saved[writer] if found.get(name) != saved[writer][name]]
            if wrong or trainer.step != STEPS or trainer.source.next_row != STEPS * ROWS:
                differing[f"{writer} read by {reader}"] = wrong
    base.group.close()
    return {"differing": differing, "saved": saved, "cuts": cuts}


def _cuts(trainer: Trainer) -> list[str]:
    """The axes that divide parameters, with ``pp`` where ranks hold different ones."""
    held = trainer.model.strategy.holdings()
    axes = {cut.axis for shard in held for cut in shard.placement.cuts}
    names = trainer.runtime.group.all_gather_object(sorted(shard.name for shard in held))
    return sorted(axes | ({"pp"} if any(other != names[0] for other in names) else set()))


def read_alone(folder: Path, kind: str) -> dict[str, str]:
    """What one process finds in a checkpoint of several."""
    trainer = make_trainer(relaid(make_runtime(), Case(SingleConfig())), folder, kind, seed=5)
    trainer.resume()
    return whole_state(trainer)
