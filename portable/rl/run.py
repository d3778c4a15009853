"""The RL stage: a run per seed, all of them shown; the first seed's policy is the result."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from portable.core.artefact import SEAL, Artefact, open_artefact, seal
from portable.core.errors import ConfigError
from portable.core.metric import Fanout, JsonlSink, read_metrics
from portable.core.storage import read_json, write_json
from portable.core.workspace import Workspace
from portable.data.task.arithmetic import ArithmeticTask
from portable.engine.config import EngineConfig, NativeEngineConfig
from portable.engine.native.engine import NativeEngine
from portable.model.tokenizer import Tokenizer
from portable.model.weights import MODEL_FILES, load_model, weight_files
from portable.parallel.runtime import Runtime
from portable.rl.batch import RolloutBatch
from portable.rl.config import RlConfig
from portable.rl.loss.grpo import GrpoObjective
from portable.rl.rollout import RolloutSource, Scorer
from portable.train.checkpoint.export import export_model
from portable.train.deepspeed_file import settle_deepspeed
from portable.train.trainer import Trainer

logger = logging.getLogger(__name__)
_MEASURE_SAMPLES = 4  # answers to every problem, before and after


def run_rl(config: RlConfig, runtime: Runtime, engine: EngineConfig, workspace: Workspace) -> Artefact:
    """Train one policy per seed and seal the first seed's as the result.

    Raises: ConfigError if the engine cannot share the trainer's weights.
    """
    if not isinstance(engine, NativeEngineConfig):
        raise ConfigError(
            f"rl samples from the very weights that it trains, which engine={engine.name} cannot share; "
            "add engine=native"
        )
    if runtime.mesh.layout.world_size > runtime.mesh.size("batch"):
        raise ConfigError(
            f"rl samples from the whole model on every rank, but layout {runtime.mesh.layout} cuts it or its "
            "sequences; use strategy=ddp, zero1 or zero2 with the degrees of tp, pp and cp "
            "at 1"
        )
    if runtime.new_strategy().shards_parameters:
        raise ConfigError(
            f"strategy={runtime.strategy} as asked for keeps a part of every weight on a rank, but rl "
            "samples from whole ones; use strategy=ddp, zero1 or zero2, or stage 1 or 2 of DeepSpeed's engine"
        )
    settle_deepspeed(
        config, runtime, workspace, micro_batch_size=config.micro_batch_size, grad_accum_steps=None
    )
    curves = [_run_seed(config, runtime, engine, workspace, seed) for seed in config.seeds]
    summary = {
        "steps": config.steps,
        "reward_start": [curve["reward_start"] for curve in curves],
        "reward_end": [curve["reward_end"] for curve in curves],
        "seeds": list(config.seeds),
        "shuffle_rewards": config.shuffle_rewards,
    }
    artefact = None
    if runtime.group.rank == 0:
        write_json(workspace.dir / "curves.json", {"seeds": curves})
        first = _seed_dir(workspace, config.seeds[0])
        payload = sorted(read_json(first / SEAL)["files"])
        for name in payload:
            shutil.copyfile(first / name, workspace.dir / name)
        artefact = seal(workspace.dir, "model", payload, summary)
    return runtime.group.broadcast_object(artefact)


def _run_seed(
    config: RlConfig, runtime: Runtime, engine: NativeEngineConfig, workspace: Workspace, seed: int
) -> dict[str, Any]:  # Any: JSON values
    folder = _seed_dir(workspace, seed)
    if (folder / SEAL).is_file():
        return open_artefact(folder, "model").summary
    runtime.seed_everything(seed)
    path = Path(config.model_path)
    dtype = runtime.precision.param_dtype.torch()
    model, model_config = load_model(path, runtime.kernels, dtype, runtime.torch_device)
    tokenizer = Tokenizer.load(path)
    reference = _reference(path, runtime, config) if config.grpo.kl_coef > 0 else None
    source = RolloutSource(
        NativeEngine(model, tokenizer, engine, runtime),
        ArithmeticTask(config.num_digits),
        config,
        seed,
        reference,
        runtime.readers.rank,
        runtime.readers.size,
    )
    start = source.measure(_MEASURE_SAMPLES, "before")
    sinks = Fanout(
        [JsonlSink(folder / "metrics.jsonl"), *([workspace.metrics] if seed == config.seeds[0] else [])]
    )
    own = Workspace(folder, sinks, workspace.show_progress)
    trainer = Trainer(model, GrpoObjective(config.grpo, config.temperature), source, config, runtime, own)
    trainer.fit()
    end = source.measure(_MEASURE_SAMPLES, "after")
    logger.info("rl seed %d: sampled reward %.3f → %.3f", seed, start, end)
    curve = {
        "seed": seed,
        "reward": source.rewards,
        "kl": [row.get("kl") for row in read_metrics(folder / "metrics.jsonl")],
        "reward_start": start,
        "reward_end": end,
    }
    export_model(trainer.model, model_config, tokenizer, folder)
    if runtime.group.rank == 0:
        seal(folder, "model", [*MODEL_FILES, *weight_files(folder)], curve)
        shutil.rmtree(own.checkpoint_dir, ignore_errors=True)
    runtime.group.barrier()
    return curve


def _reference(path: Path, runtime: Runtime, config: RlConfig) -> Scorer:
    """Return the starting policy as a scorer of batches; it is never trained."""
    frozen, _ = load_model(path, runtime.kernels, runtime.precision.param_dtype.torch(), runtime.torch_device)
    frozen.requires_grad_(requires_grad=False).eval()

    def score(batch: RolloutBatch) -> Tensor:
        moved = batch.to(runtime.torch_device)
        with torch.no_grad():
            return frozen(
                moved.input_ids_BT,
                moved.position_ids_BT,
                moved.cu_seqlens,
                targets=moved.learnt_target_ids_BT,
                temperature=config.temperature,
            )

    return score


def _seed_dir(workspace: Workspace, seed: int) -> Path:
    return workspace.dir / f"seed-{seed}"
