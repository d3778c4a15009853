"""Trainings in processes of their own: two ranks, or one that is killed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from portable.core.errors import CollectiveError
from portable.data.shard import TokenShards
from portable.model.config import ModelConfig
from portable.parallel.runtime import Runtime
from portable.parallel.spread import spread
from portable.train.checkpoint import checkpointer
from portable.train.config import AdamWConfig, CheckpointConfig, MuonConfig
from portable.train.evaluate import bits_per_byte
from portable.train.next_token import next_token_loss
from portable.train.precision import forward_context
from portable.train.pretrain import run_pretrain
from portable.train.pretrain_config import PretrainConfig
from portable.train.trainer import Trainer
from tests.portable.train.support import (
    RowSource,
    TinyModel,
    make_runtime,
    rows_to_batch,
    train_config,
    weights_hash,
    workspace,
)


def step_gradients() -> dict[str, Any]:
    """The gradient of rows 0 to 7 on two ranks, cut in several ways; "uneven" gives rank 0 most of the
    targets.
    """
    runtime = make_runtime("ddp")
    rank = runtime.group.rank
    rows = {
        "1x4": [[rank * 4 + place] for place in range(4)],
        "2x2": [[rank * 4 + place, rank * 4 + place + 1] for place in (0, 2)],
        "4x1": [list(range(rank * 4, rank * 4 + 4))],
        "uneven": [[4, 5, 2, 3], [7]] if rank == 0 else [[0], [6, 1]],
    }
    report: dict[str, Any] = {name: _one_step(runtime, layout) for name, layout in rows.items()}
    try:
        _one_step(runtime, [[0]] * (rank + 1))
        report["mismatch"] = "no error"
    except CollectiveError as error:
        report["mismatch"] = str(error)
    return report


def _one_step(runtime: Runtime, layout: list[list[int]]) -> dict[str, Any]:
    trainer = Trainer(
        TinyModel(),
        next_token_loss,
        RowSource(1, 1),
        train_config(4, max_grad_norm=0.0),
        runtime,
        workspace(Path()),
    )
    seen: dict[str, Tensor] = {}
    trainer.optimizer.step = lambda: seen.update(
        {name: parameter.grad.clone() for name, parameter in trainer.module.named_parameters()}
    )
    result = trainer.train_step([rows_to_batch(rows) for rows in layout])
    return {
        "gradient": {name: gradient.flatten().tolist() for name, gradient in seen.items()},
        "loss_mean": float(result.loss_mean),
        "num_terms": result.num_terms,
    }


def build(folder: Path, strategy: str = "single", optim: str = "adamw", steps: int = 30) -> Trainer:
    """A run with dropout, so that random streams matter, and a checkpoint every third step."""
    runtime = make_runtime(strategy)
    runtime.seed_everything(5)
    group = runtime.group
    return Trainer(
        TinyModel(dropout=0.2),
        next_token_loss,
        RowSource(2, 4 // group.size, group.rank, group.size),
        train_config(
            steps,
            optim=AdamWConfig(lr=0.05) if optim == "adamw" else MuonConfig(),
            checkpoint=CheckpointConfig(every_steps=3),
        ),
        runtime,
        workspace(folder),
    )


def train(
    folder: str, strategy: str = "single", optim: str = "adamw", die_after: str = "0"
) -> dict[str, Any]:
    """Train to the end, or leave like a killed process after a step.

    Returns the hash of the weights and the step that the run began at.
    """
    trainer = build(Path(folder), strategy, optim)
    if int(die_after):
        after_each_step(trainer, lambda step: os._exit(0) if step == int(die_after) else None)
    trainer.resume()
    began = trainer.step
    trainer.fit()
    weights = trainer.model.whole_weights()
    trainer.runtime.group.close()
    return {"hash": weights_hash(weights), "began": began}


def train_slowly(folder: str) -> str:
    """Train with a pause after each step, telling the step in a file: something to kill."""
    trainer = build(Path(folder))

    def tell(step: int) -> None:
        (Path(folder) / "step.txt").write_text(str(step))
        time.sleep(0.03)

    after_each_step(trainer, tell)
    trainer.fit()
    return weights_hash(trainer.module.state_dict())


def hang_in_save(folder: str) -> dict[str, Any]:
    """Stay for ever in the background save of step 9, its files written but not yet sealed; tell when it is
    so.
    """
    real = checkpointer.commit

    def commit(root: Path, made: Any, *rest: Any) -> Any:
        if made.step == 9:
            (Path(folder) / "saving.txt").write_text("now")
            time.sleep(600)
        return real(root, made, *rest)

    checkpointer.commit = commit
    return train(folder)


def after_each_step(trainer: Trainer, act: Any) -> None:
    real = trainer._after_step

    def after(advance: Any) -> None:
        real(advance)
        act(trainer.step)

    trainer._after_step = after


def evaluate(shards: str) -> list[float]:
    """Score with a sharded model, whose ranks need each other in every forward pass."""
    runtime = make_runtime("fsdp")
    model = spread(TinyModel(), runtime, forward_context(runtime))
    score = bits_per_byte(model, TokenShards.open(Path(shards)), runtime, seq_len=4, batch_tokens=8)
    runtime.group.close()
    return score.document_nats.tolist()


def pretrain(corpus: str, folder: str, die_after: str = "0") -> dict[str, Any]:
    """The stage on two ranks, or one that ends at a step as if it were killed."""
    runtime = make_runtime("ddp" if "WORLD_SIZE" in os.environ else "single")
    if int(die_after):
        real = Trainer._after_step

        def after(trainer: Trainer, advance: Any) -> None:
            real(trainer, advance)
            if trainer.step == int(die_after):
                os._exit(0)

        Trainer._after_step = after
    artefact = run_pretrain(pretrain_config(corpus), runtime, workspace(Path(folder)))
    runtime.group.close()
    return {"digest": artefact.digest, "summary": artefact.summary}


def pretrain_config(corpus: str, **changes: Any) -> PretrainConfig:
    model = ModelConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        max_seq_len=64,
    )
    settings: dict[str, Any] = {
        "data": corpus,
        "steps": 12,
        "model": model,
        "seq_len": 32,
        "micro_batch_size": 2,
        "global_batch_size": 8,
        "eval_every_steps": 6,
        "eval_documents": 2,
        "optim": AdamWConfig(lr=0.01),
        "checkpoint": CheckpointConfig(every_steps=4),
    }
    return PretrainConfig(**(settings | changes))
