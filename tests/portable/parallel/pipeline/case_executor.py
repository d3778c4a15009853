"""What ranks find out about pipelines: losses and gradients beside those of the whole model."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from portable.core.record import Batch
from portable.device.protocol import Dtype
from portable.model.config import ModelConfig, MtpConfig
from portable.model.decoder import Decoder
from portable.model.init import new_model
from portable.parallel.config import ParallelConfig
from portable.parallel.objective import LossSum, Model
from portable.parallel.pipeline.executor import Pipeline
from portable.parallel.pipeline.schedule.file import write_table
from portable.parallel.pipeline.schedule.select import make_schedule
from portable.parallel.pipeline.stage import split_into_stages
from portable.parallel.placement import Placement
from portable.parallel.runtime import Runtime
from portable.testing.runtime import make_runtime

SCALE = 1 / 64


def model_config(num_layers: int, *, tied: bool, mtp: int = 0) -> ModelConfig:
    return ModelConfig(
        vocab_size=23, hidden_size=16, intermediate_size=24, num_layers=num_layers, num_heads=2,
        num_kv_heads=1, head_dim=8, max_seq_len=16, tie_embeddings=tied, init_std=0.2,
        mtp=MtpConfig(num_layers=mtp) if mtp else None,
    )  # fmt: skip


def batches(count: int, *, varied: bool) -> list[Batch]:
    """Rows of two segments; ``varied`` gives every micro-batch another length."""
    made = []
    for number in range(count):
        stream = torch.Generator().manual_seed(number)
        length = 6 + 2 * (number % 3) if varied else 8
        ids = torch.randint(23, (2, length + 1), generator=stream)
        weight = torch.randint(2, (2, length), generator=stream).float()
        positions = torch.cat([torch.arange(length // 2)] * 2).expand(2, -1)
        bounds = torch.arange(0, 2 * length + 1, length // 2, dtype=torch.int32)
        made.append(Batch(ids[:, :-1], ids[:, 1:], weight, positions, bounds))
    return made


def objective(model: Model, batch: Batch) -> LossSum:
    log_probs = model(
        batch.input_ids_BT, batch.position_ids_BT, batch.cu_seqlens, targets=batch.learnt_target_ids_BT
    )
    hits = (log_probs > -1.0).float() * batch.loss_weight_BT
    return LossSum(-(log_probs * batch.loss_weight_BT).sum(), {"hits": hits.sum()})


def two_ranks() -> dict[str, Any]:
    """Every schedule, and what else may vary."""
    runtime = make_runtime(parallel=ParallelConfig(pipeline_parallel_degree=2))
    check = partial(compare, runtime)
    report = {
        "GPipe": check("GPipe", 3),
        "1F1B": check("1F1B", 4),
        "Interleaved1F1B": check("Interleaved1F1B", 4),
        "LoopedBFS": check("LoopedBFS", 3, stages=3, layers=6),
        "InterleavedZeroBubble": check("InterleavedZeroBubble", 4),
        "zero bubble, one stage a rank": check("InterleavedZeroBubble", 6, stages=1),
        "ZBVZeroBubble": check("ZBVZeroBubble", 5),
        "DualPipeV": check("DualPipeV", 5),
        "untied": check("1F1B", 3, tied=False),
        "untied V": check("ZBVZeroBubble", 3, tied=False),
        "multi-token prediction": check("1F1B", 3, tied=False, mtp=1),
        "multi-token prediction, V": check("DualPipeV", 4, tied=False, mtp=2),
        "uneven layers": check("1F1B", 3, layers=5, per_stage=[4, 1]),
        "ends without blocks": check("Interleaved1F1B", 2, layers=4, per_stage=[0, 3, 1, 0]),
        "varied lengths": check("DualPipeV", 6, varied=True),
        "varied lengths, looped": check("Interleaved1F1B", 4, varied=True),
        "one micro-batch": check("1F1B", 1),
        "fewer micro-batches than stages": check("ZBVZeroBubble", 1),
        "recomputed": check("ZBVZeroBubble", 3, recomputes=True),
        "file": check("file", 4),
        "bf16": check("ZBVZeroBubble", 3, dtype=Dtype.bf16),
        "meta": _on_meta(runtime),
        "frozen": check("1F1B", 2, per_stage=[0, 4], tied=False, frozen=True),
    }
    runtime.group.close()
    return report


def four_ranks() -> dict[str, Any]:
    """What two ranks do not show: neighbours on both sides."""
    runtime = make_runtime(parallel=ParallelConfig(pipeline_parallel_degree=4))
    check = partial(compare, runtime)
    report = {
        "1F1B": check("1F1B", 6, layers=8),
        "Interleaved1F1B": check("Interleaved1F1B", 8, layers=9, varied=True),
        "InterleavedZeroBubble": check("InterleavedZeroBubble", 8, layers=8),
        "ZBVZeroBubble": check("ZBVZeroBubble", 9, layers=8, varied=True),
        "DualPipeV": check("DualPipeV", 9, layers=8),
        "fewer micro-batches than stages": check("1F1B", 2, layers=8, tied=False),
    }
    runtime.group.close()
    return report


def compare(
    runtime: Runtime,
    name: str,
    count: int,
    *,
    layers: int = 4,
    stages: int = 0,
    per_stage: Sequence[int] = (),
    tied: bool = True,
    mtp: int = 0,
    varied: bool = False,
    recomputes: bool = False,
    frozen: bool = False,
    dtype: Dtype = Dtype.fp32,
) -> dict[str, Any]:
    """Run one step and an evaluation; return the worst differences from the whole model."""
    config = ParallelConfig(
        pipeline_parallel_degree=runtime.mesh.size("pp"),
        pipeline_parallel_schedule="1F1B" if name == "file" else name,
        pipeline_parallel_stages_per_rank=stages,
        pipeline_parallel_layers_per_stage=list(per_stage),
    )
    if name == "file":
        path = Path(tempfile.mkdtemp()) / "schedule.csv"
        write_table(make_schedule(config).table(count), path)
        config.pipeline_parallel_schedule_csv = str(path)
    shape = model_config(layers, tied=tied, mtp=mtp)
    whole, model = (new_model(shape, runtime.kernels, seed=1) for _ in range(2))
    for part in (whole, model):
        if frozen and part.embed is not None:
            part.embed.requires_grad_(False)
        if recomputes:
            _recompute(part)
    pipeline, parts = make_pipeline(runtime, model, config, dtype)
    names = sorted({name for part in parts for name, _ in part.named_parameters()})
    given = batches(count, varied=varied)
    pipeline.forward_backward(given, objective, SCALE)  # a second step finds what the first one left
    for part in parts:
        part.zero_grad()
    sums = pipeline.forward_backward(given, objective, SCALE)
    wanted = []
    for batch in given:
        with runtime.device.autocast(dtype):
            loss_sum = objective(whole, batch)
        (loss_sum.loss * SCALE).backward()
        wanted.append(loss_sum)
    losses = [_gap(own.loss, its.loss) for own, its in zip(sums, wanted, strict=True)]
    hits = [_gap(own.metrics["hits"], its.metrics["hits"]) for own, its in zip(sums, wanted, strict=True)]
    gradients = {name: parameter.grad for name, parameter in whole.named_parameters()}
    return {
        "loss": max(losses),
        "hits": max(hits),
        "gradient": _worst_gradient(parts, gradients),
        "evaluation": _evaluate(runtime, pipeline, whole, given[0]),
        "names": names,
        "all": sorted(gradients),
        "bubble": pipeline.meter.fraction(),
    }


def make_pipeline(
    runtime: Runtime, model: Decoder, config: ParallelConfig, dtype: Dtype = Dtype.fp32
) -> tuple[Pipeline, list[Any]]:
    placements = {name: Placement(tuple(item.shape)) for name, item in model.named_parameters()}
    schedule = make_schedule(config)
    parts = split_into_stages(
        model, schedule, runtime.mesh, config.pipeline_parallel_layers_per_stage, placements
    )
    strategy = runtime.new_strategy()
    strategy.wrap(parts, placements)
    forward = partial(runtime.device.autocast, dtype)
    return Pipeline(schedule, strategy, runtime.mesh, runtime.device, forward), parts


def _gap(own: Tensor, its: Tensor) -> float:
    return float((own.detach().float() - its.detach().float()).abs().max())


def _worst_gradient(parts: Sequence[Any], wanted: dict[str, Tensor | None]) -> float:
    worst = 0.0
    for part in parts:
        for name, parameter in part.named_parameters():
            its = wanted[name]
            if its is None or parameter.grad is None:
                worst = max(worst, 0.0 if its is parameter.grad else float("inf"))
            else:
                worst = max(worst, _gap(parameter.grad, its) / float(its.abs().max()))
    return worst


def _evaluate(runtime: Runtime, pipeline: Pipeline, whole: Decoder, batch: Batch) -> list[float]:
    """Compare hidden states, and log-probabilities of targets, on every rank."""
    inputs = batch.input_ids_BT, batch.position_ids_BT, batch.cu_seqlens
    with torch.no_grad():
        return [
            _gap(pipeline.forward(*inputs, **more), whole(*inputs, **more))
            for more in ({}, {"targets": batch.target_ids_BT})
        ]


def _recompute(model: Decoder) -> None:
    for block in model.blocks.values():
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def _on_meta(runtime: Runtime) -> list[Any]:
    """A model without memory is cut like one that has it, and its stages hold their names only."""
    with torch.device("meta"):
        model = Decoder(model_config(4, tied=False), runtime.kernels)
    placements = {name: Placement(tuple(item.shape)) for name, item in model.named_parameters()}
    schedule = make_schedule(
        ParallelConfig(pipeline_parallel_degree=2, pipeline_parallel_schedule="ZBVZeroBubble")
    )
    parts = split_into_stages(model, schedule, runtime.mesh, (), placements)
    held = [sorted(name for name, _ in part.named_parameters()) for part in parts]
    return [len(parts), parts[0] is model, sorted(held[0] + held[1]) == sorted(placements), held[0][:1]]
