"""One short training run under a strategy; what every rank saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor

from portable.testing.runtime import make_runtime
from portable.testing.strategy.tiny import RowSource, TinyModel, train_config, weights_hash, workspace
from portable.train.next_token import next_token_loss
from portable.train.trainer import Trainer

STEPS, ROWS = 4, 8


def run(backend_name: str, strategy: str, folder: str) -> dict[str, Any]:
    """Ranks start from different weights; the strategy must make them one model."""
    runtime = make_runtime(backend_name, strategy)
    group = runtime.group
    trainer = Trainer(
        TinyModel(seed=group.rank),
        next_token_loss,
        RowSource(2, ROWS // 2 // group.size, group.rank, group.size),
        train_config(STEPS),
        runtime,
        workspace(Path(folder)),
    )
    results = [trainer.train_step(trainer.source.next_batches()) for _ in range(STEPS)]
    unclipped = trainer.model.strategy.clip_grad_norm(1.0)  # no gradient is left
    weights = trainer.model.whole_weights()
    report = {
        "losses": [float(result.loss_mean) for result in results],
        "norms": [float(result.grad_norm) for result in results],
        "norm_after": float(unclipped),
        "weights": {name: tensor.flatten().tolist() for name, tensor in weights.items()},
        "hash": weights_hash(weights),
        "described": trainer.model.strategy.describe(),
        "wrapper": type(trainer.model.strategy.modules[0]).__name__,
        "local_numel": sum(_local(parameter).numel() for parameter in trainer.module.parameters()),
    }
    group.close()
    return report


def _local(parameter: Tensor) -> Tensor:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter
