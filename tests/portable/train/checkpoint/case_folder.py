"""Model folders and seed checkpoints, written and read by two ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from portable.model.config import ModelConfig
from portable.model.init import new_model
from portable.parallel.config import SingleConfig
from portable.parallel.runtime import Runtime
from portable.parallel.spread import spread
from portable.parallel.spread_model import SpreadModel
from portable.testing.engine.tiny import make_tokenizer
from portable.train.checkpoint.export import export_model
from portable.train.checkpoint.initial import hf_fill
from portable.train.config import CheckpointConfig
from portable.train.next_token import next_token_loss
from portable.train.precision import forward_context
from portable.train.trainer import Trainer
from tests.portable.train.checkpoint.case_reshard import DATA_ONLY, Case, relaid
from tests.portable.train.support import (
    RowSource,
    TinyModel,
    make_runtime,
    train_config,
    weights_hash,
    workspace,
)

# Nothing divides evenly over two ranks.
SHAPE = ModelConfig(
    vocab_size=307,
    hidden_size=32,
    intermediate_size=45,
    num_layers=3,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    max_seq_len=64,
    tie_embeddings=False,
)
LAYOUTS = {"single": Case(SingleConfig()), **DATA_ONLY}


def fresh(runtime: Runtime, seed: int) -> SpreadModel:
    return spread(new_model(SHAPE, runtime.kernels, seed), runtime, forward_context(runtime))


def from_folder(runtime: Runtime, path: Path) -> SpreadModel:
    model = new_model(SHAPE, runtime.kernels, 0, device="meta")
    return spread(model, runtime, forward_context(runtime), fill=hf_fill(path))


def export_all(folder: str) -> dict[str, Any]:
    """Export in every layout, and fill every layout from the first one's folder."""
    base = make_runtime("ddp")
    tokenizer = make_tokenizer()
    report: dict[str, Any] = {}
    for name, case in DATA_ONLY.items():
        runtime = relaid(base, case)
        model, target = fresh(runtime, 3), Path(folder) / name
        count = export_model(model, SHAPE, tokenizer, target, max_shard_bytes=60_000)
        base.group.barrier()
        filled = from_folder(runtime, Path(folder) / "ddp")
        report[name] = {
            "parameters": count,
            "own": weights_hash(model.whole_weights()),
            "filled": weights_hash(filled.whole_weights()),
        }
    base.group.close()
    return report


def tiny(runtime: Runtime, folder: Path, seed: int, **checkpoint: Any) -> Trainer:
    readers = runtime.readers
    return Trainer(
        TinyModel(seed),
        next_token_loss,
        RowSource(4 // readers.size, 1, readers.rank, readers.size),
        train_config(4, checkpoint=CheckpointConfig(**checkpoint)),
        runtime,
        workspace(folder),
    )


def start_from_seed(folder: str, seed_run: str) -> dict[str, Any]:
    """Train a few steps in every layout, each from the seed checkpoint that one process wrote."""
    base = make_runtime("ddp")
    report: dict[str, Any] = {}
    for name, case in DATA_ONLY.items():
        trainer = tiny(relaid(base, case), Path(folder) / name, seed=9, initial_load_path=seed_run)
        trainer.resume()
        began = weights_hash(trainer.model.whole_weights())
        trainer.fit()
        ended = trainer.model.whole_weights()["head.weight"].flatten().tolist()
        report[name] = {"began": began, "step": trainer.step, "head": ended}
    base.group.close()
    return report
