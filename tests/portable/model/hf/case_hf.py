"""Models of transformers trained over layouts, in real processes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from portable.data.loader import BatchShape
from portable.model.hf.folder import empty_hf
from portable.parallel.config import ParallelConfig
from portable.parallel.runtime import Runtime
from portable.testing.runtime import make_runtime, with_strategy
from portable.testing.strategy.decoder import ROWS, Rows
from portable.testing.strategy.tiny import workspace
from portable.train.config import AdamWConfig, CheckpointConfig, TrainConfig
from portable.train.next_token import next_token_loss
from portable.train.trainer import Trainer

STEPS = 2  # the second sees what the first changed
TP: dict[str, Any] = {"tensor_parallel_degree": 2}
CP: dict[str, Any] = {"context_parallel_degree": 2}
PP: dict[str, Any] = {"pipeline_parallel_degree": 2}
EP: dict[str, Any] = {"expert_parallel_degree": 2}
# name: (model, strategy, settings of parallelism, the words of parameters that are frozen)
TWO: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "llama, ddp": ("llama", "ddp", {}, ""),
    "llama, fsdp": ("llama", "fsdp", {}, ""),
    "llama, tp+sp": ("llama", "single", TP, ""),
    "llama, tp": ("llama", "single", TP | {"enable_sequence_parallel": False}, ""),
    "llama, pp": ("llama", "single", PP, ""),
    "llama, cp": ("llama", "single", CP, ""),
    "llama, tp+sp, frozen": ("llama", "single", TP, "embed_tokens"),
    "qwen2, biases, tp+sp": ("qwen2", "single", TP, ""),
    "qwen3, tied, tp+sp": ("qwen3", "single", TP, ""),
    "qwen3, tied, pp": ("qwen3", "single", PP, ""),
    "mixtral, ep, ddp": ("mixtral", "ddp", EP, ""),
    "mixtral, ep, fsdp": ("mixtral", "fsdp", EP, ""),
    "mixtral, tp+sp": ("mixtral", "single", TP, ""),
    "mistral, window, ulysses": ("mistral", "single", CP | {"context_parallel_method": "ulysses"}, ""),
    "gpt_neox, tp+sp": ("gpt_neox", "single", TP, ""),
    "gpt2, fsdp": ("gpt2", "fsdp", {}, ""),
    "gpt2, cp": ("gpt2", "single", CP, ""),
}


def train(runtime: Runtime, path: Path, frozen: str) -> dict[str, Any]:
    """Train a few steps."""
    model, fill = empty_hf(path, runtime.kernels)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not frozen or frozen not in name)
    readers = runtime.readers
    shape = BatchShape(1, ROWS // readers.size, readers.rank, readers.size)
    config = TrainConfig(steps=STEPS, optim=AdamWConfig(lr=0.01), checkpoint=CheckpointConfig(every_steps=0))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model, next_token_loss, Rows(shape), config, runtime, workspace(Path(folder)), fill=fill
        )
        results = [trainer.train_step(trainer.source.next_batches()) for _ in range(STEPS)]
        weights = trainer.model.whole_weights()
    return {
        "losses": [float(result.loss_mean) for result in results],
        "norms": [float(result.grad_norm) for result in results],
        "weights": {name: tensor.flatten().tolist() for name, tensor in weights.items()},
    }


def alone(folders: str) -> dict[str, Any]:
    """Every model that a layout trains, in one process."""
    runtime = make_runtime()
    wanted = {(model, frozen) for model, _, _, frozen in TWO.values()}
    return {f"{model}/{frozen}": train(runtime, Path(folders) / model, frozen) for model, frozen in wanted}


def together(folders: str, *only: str) -> dict[str, Any]:
    """All layouts of two ranks, one after the other."""
    runtime = make_runtime("cpu", "ddp")
    report: dict[str, Any] = {}
    for name, (model, strategy, settings, frozen) in TWO.items():
        if only and name not in only:
            continue
        try:
            own = with_strategy(runtime, strategy, parallel=ParallelConfig(**settings))
            report[name] = train(own, Path(folders) / model, frozen)
        except Exception as error:
            raise RuntimeError(f"layout '{name}' failed") from error
    runtime.group.close()
    return report
