"""A trial trained for a few steps under some runtime, and what is seen of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from portable.certificate.rows import Rows, make_batch
from portable.certificate.shrink import Trial
from portable.certificate.watch import Watch
from portable.collective.local import LocalGroup
from portable.core.workspace import Workspace
from portable.device.protocol import Dtype
from portable.kernel.registry import KernelSet
from portable.model.decoder import Decoder
from portable.model.head import HeadedModel
from portable.model.hf.folder import bare_hf
from portable.model.init import initial_value
from portable.parallel.build import STRATEGIES
from portable.parallel.config import ParallelConfig, SingleConfig
from portable.parallel.gradient import local_gradient
from portable.parallel.layout import Layout
from portable.parallel.mesh import Mesh
from portable.parallel.placement import Extent
from portable.parallel.runtime import Runtime
from portable.parallel.spread import Fill
from portable.parallel.strategy import Strategy
from portable.train.config import (
    CheckpointConfig,
    Decay,
    MuonConfig,
    OptimConfig,
    ScheduleConfig,
    TrainConfig,
)
from portable.train.next_token import next_token_loss
from portable.train.trainer import Trainer

SEED = 0
_SCORED = 3  # rows of the evaluation


@dataclass(slots=True)
class Run:
    """What a few steps did. ``gradients`` are this rank's parts of those of the first step, with the boxes
    that they are of the whole; weights and scores are whole, on the host.
    """

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    gradients: dict[str, tuple[Extent, Tensor]] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    scores: Tensor = field(default_factory=lambda: torch.empty(0))


def alone(runtime: Runtime) -> Runtime:
    """Return ``runtime`` as if this process were the only one, on the same device."""
    group = LocalGroup()
    group.local_rank = runtime.group.local_rank
    mesh = Mesh(Layout(), group, runtime.device.torch_type)
    single = STRATEGIES.get("single")
    return replace(
        runtime,
        mesh=mesh,
        parallel=ParallelConfig(),
        strategy="single",
        new_strategy=partial(single, SingleConfig(), runtime.precision, mesh, runtime.device),
    )


def build(trial: Trial, kernels: KernelSet) -> tuple[HeadedModel, Fill]:
    """Return the model on the meta device, a decoder of ours or one of transformers, and what fills it, which
    depends on names and shapes alone.
    """
    model, buffers = _empty(trial, kernels)

    def fill(name: str, shape: tuple[int, ...], extent: Extent) -> Tensor:
        known = buffers.get(name)
        return extent.of(initial_value(trial.model, name, shape, SEED) if known is None else known)

    return model, fill


def _empty(trial: Trial, kernels: KernelSet) -> tuple[HeadedModel, dict[str, Tensor]]:
    if trial.foreign is None:
        with torch.device("meta"):
            return Decoder(trial.model, kernels), {}
    from transformers import AutoConfig

    model, buffers, _ = bare_hf(AutoConfig.for_model(**trial.foreign), kernels)
    return model, buffers


def train(
    trial: Trial,
    runtime: Runtime,
    optim: OptimConfig,
    *,
    readers: int,
    steps: int,
    watch: Watch | None = None,
) -> Run:
    """Train the trial's steps, the samples being those of ``readers`` readers, and evaluate it.

    With a ``watch``, only the first step is run and watched. All ranks of the runtime call.
    """
    model, fill = build(trial, runtime.kernels)
    source = Rows(trial, runtime.readers.rank, runtime.readers.size, readers)
    run = Run()
    seen: list[Strategy] = []
    new_strategy = partial(_watched, runtime.new_strategy, run, runtime, seen)
    config = TrainConfig(
        steps=steps,
        optim=_optim(optim),
        schedule=ScheduleConfig(decay=Decay.constant, warmup_steps=0),
        checkpoint=CheckpointConfig(every_steps=0),
    )
    runtime.seed_everything(SEED)
    with tempfile.TemporaryDirectory(prefix="portable-certificate-") as folder:
        trainer = Trainer(
            model,
            next_token_loss,
            source,
            config,
            replace(runtime, new_strategy=new_strategy),
            Workspace(Path(folder)),
            fill=fill,
        )
        if watch is not None:
            watch.follow(trainer.model.parts)
        for _ in range(steps if watch is None else 1):
            result = trainer.train_step(source.next_batches())
            trainer.step += 1
            run.losses.append(float(result.loss_mean))
            run.norms.append(float(result.grad_norm))
    if watch is None:
        run.scores = _evaluate(trainer, trial, runtime)
        run.weights = trainer.model.whole_weights()
    return run


def _evaluate(trainer: Trainer, trial: Trial, runtime: Runtime) -> Tensor:
    trainer.model.eval()
    batch = make_batch(range(_SCORED), trial.seq_len, trial.model.vocab_size).to(runtime.torch_device)
    with torch.no_grad():
        scores = trainer.model(
            batch.input_ids_BT, batch.position_ids_BT, batch.cu_seqlens, targets=batch.target_ids_BT
        )
    return runtime.device.to_portable(scores).cpu()


def _watched(make: Callable[[], Strategy], run: Run, runtime: Runtime, seen: list[Strategy]) -> Strategy:
    """Return a strategy that keeps the gradients of its first step, before they are clipped."""
    strategy = make()
    clip = strategy.clip_grad_norm

    def keep_and_clip(max_norm: float) -> Tensor:
        if strategy not in seen:
            seen.append(strategy)
            run.gradients = _gradients(strategy, runtime)
        return clip(max_norm)

    setattr(strategy, "clip_grad_norm", keep_and_clip)  # noqa: B010 - of this one object only
    return strategy


def _gradients(strategy: Strategy, runtime: Runtime) -> dict[str, tuple[Extent, Tensor]]:
    found: dict[str, tuple[Extent, Tensor]] = {}
    for shard in strategy.shards():
        gradient = local_gradient(shard)
        if gradient is not None:
            extent = shard.placement.extent(runtime.mesh)
            on_host = runtime.device.to_portable(gradient.detach()).to("cpu", copy=True)
            found[shard.name] = (extent, on_host)
    return found


def _optim(config: OptimConfig) -> OptimConfig:
    """Return the user's optimiser, in a format in which a last bit does not grow."""
    return replace(config, iteration_dtype=Dtype.fp32) if isinstance(config, MuonConfig) else config
