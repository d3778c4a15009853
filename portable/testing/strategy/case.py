"""Short training runs under several strategies, and what every rank saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from portable.device.protocol import Dtype
from portable.parallel.config import ParallelConfig
from portable.parallel.gradient import local
from portable.parallel.runtime import Runtime
from portable.testing.runtime import make_runtime, with_strategy
from portable.testing.strategy.tiny import RowSource, TinyModel, train_config, weights_hash, workspace
from portable.train.config import MuonConfig
from portable.train.next_token import next_token_loss
from portable.train.trainer import Trainer

STEPS, ROWS = 4, 8
HSDP = "hsdp"


def run(backend_name: str, folder: str, *strategies: str) -> dict[str, Any]:
    """Train once under each strategy, and a second time to compare; once more with Muon."""
    first = make_runtime(backend_name, "single" if strategies == ("single",) else "ddp")
    report: dict[str, Any] = {}
    for name in strategies:
        parallel = ParallelConfig(data_parallel_replicate_degree=2) if name == HSDP else ParallelConfig()
        runtime = with_strategy(first, name, parallel=parallel)
        report[name] = train(runtime, folder)
        report[name]["again"] = train(runtime, folder)["hash"]
        report[name]["muon"] = train(runtime, folder, optim=MuonConfig(iteration_dtype=Dtype.fp32))
    first.group.close()
    return report


def train(runtime: Runtime, folder: str, **changes: Any) -> dict[str, Any]:
    """Ranks start from different weights; the strategy must make them one model."""
    group = runtime.group
    trainer = Trainer(
        TinyModel(seed=group.rank),
        next_token_loss,
        RowSource(2, ROWS // 2 // group.size, group.rank, group.size),
        train_config(STEPS, **changes),
        runtime,
        workspace(Path(folder)),
    )
    results = [trainer.train_step(trainer.source.next_batches()) for _ in range(STEPS)]
    strategy = trainer.model.strategy
    weights = trainer.model.whole_weights()
    return {
        "losses": [float(result.loss_mean) for result in results],
        "norms": [float(result.grad_norm) for result in results],
        "norm_after": float(strategy.clip_grad_norm(1.0)),  # no gradient is left
        "weights": {name: tensor.flatten().tolist() for name, tensor in weights.items()},
        "hash": weights_hash(weights),
        "described": strategy.describe(),
        "computing_numel": sum(local(parameter).numel() for parameter in trainer.module.parameters()),
        "updated_numel": sum(local(shard.parameter).numel() for shard in strategy.shards()),
    }
