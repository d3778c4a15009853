"""DeepSpeed's engine under our trainer, in real processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import nn

from portable.core.errors import PortableError
from portable.device.protocol import Dtype
from portable.parallel.config import ParallelConfig, PrecisionConfig
from portable.parallel.runtime import Runtime
from portable.parallel.strategies.deepspeed.config import OffloadOptimizerConfig, OffloadParamConfig
from portable.parallel.strategies.deepspeed.engine import check_engine
from portable.parallel.strategies.deepspeed.rank import RankTable
from portable.testing.runtime import make_runtime, with_strategy
from portable.testing.strategy.tiny import RowSource, TinyModel, train_config, weights_hash, workspace
from portable.train.config import CheckpointConfig, MuonConfig
from portable.train.next_token import next_token_loss
from portable.train.trainer import Trainer

STEPS, ACCUMULATED = 4, 2
STAGES = (0, 1, 2, 3)
NORMS = {"clipped": 0.1, "free": 0.0}
NARROW = PrecisionConfig(compute_dtype=Dtype.bf16)


def run(folder: str) -> dict[str, Any]:
    """Train by hand-written data parallelism and by every stage."""
    first = make_runtime("cpu", "ddp")
    report: dict[str, Any] = {
        "fp32": {
            kind: {"ddp": _train(first, folder, norm)}
            | {str(stage): _train(_engine(first, stage), folder, norm) for stage in STAGES}
            for kind, norm in NORMS.items()
        },
        "bf16": {
            "ddp": _train(with_strategy(first, "ddp", NARROW), folder, 1.0),
            **{str(stage): _train(_engine(first, stage, NARROW), folder, 1.0) for stage in STAGES[1:]},
        },
        "resume": {str(stage): _resume(first, stage, Path(folder)) for stage in STAGES},
        "memory": {
            f"{name}, {stage}": _memory(_engine(first, stage, precision), folder)
            for name, precision in (("fp32", None), ("bf16", NARROW))
            for stage in STAGES
            if stage or precision is None
        },
        "faults": {name: _message(plant, first) for name, plant in _FAULTS.items()},
    }
    first.group.close()
    return report


# stage, where the optimiser's state lives, where parameters live
OFFLOADS: dict[str, tuple[tuple[int, str, str], ...]] = {
    "cpu": (
        (1, "cpu", "none"),
        (2, "cpu", "none"),
        (3, "cpu", "none"),
        (3, "cpu", "cpu"),
        (3, "none", "cpu"),
    ),
    "nvme": (
        (3, "nvme", "none"),
        (3, "nvme", "cpu"),
        (3, "nvme", "nvme"),
        (3, "cpu", "nvme"),
        (3, "none", "nvme"),
    ),
}


def offloaded(folder: str, kind: str) -> dict[str, Any]:
    """Train with state on the host or on a disk."""
    first = make_runtime("cpu", "ddp")
    report: dict[str, Any] = {"ddp": _train(first, folder, 0.1)}
    for stage, optimizer, parameters in OFFLOADS[kind]:
        runtime = _engine(
            first,
            stage,
            offload_optimizer=OffloadOptimizerConfig(**_place(optimizer, folder)),
            offload_param=OffloadParamConfig(**_place(parameters, folder), buffer_size=10_000),
        )
        report[f"{stage}, {optimizer}, {parameters}"] = _train(runtime, folder, 0.1)
    first.group.close()
    return report


def _place(device: str, folder: str) -> dict[str, Any]:
    return {"device": device, "nvme_path": folder if device == "nvme" else "", "pin_memory": False}


def _engine(
    runtime: Runtime, stage: int, precision: PrecisionConfig | None = None, **settings: Any
) -> Runtime:
    # A threshold of 0, or everything here is too small to be divided.
    return with_strategy(
        runtime,
        "deepspeed",
        precision,
        stage=stage,
        stage3_param_persistence_threshold=0,
        reduce_bucket_size=1000,
        **settings,
    )


def _trainer(runtime: Runtime, folder: Path, max_grad_norm: float = 0.1, **changes: Any) -> Trainer:
    group = runtime.group
    return Trainer(
        TinyModel(seed=group.rank),  # ranks start from different weights; they must become one model
        next_token_loss,
        RowSource(2, ACCUMULATED, group.rank, group.size),
        train_config(STEPS, max_grad_norm=max_grad_norm, **changes),
        runtime,
        workspace(folder),
    )


def _train(runtime: Runtime, folder: str, max_grad_norm: float) -> dict[str, Any]:
    trainer = _trainer(runtime, Path(folder), max_grad_norm)
    results = [trainer.train_step(trainer.source.next_batches()) for _ in range(STEPS)]
    weights = trainer.model.whole_weights()
    return {
        "losses": [float(result.loss_mean) for result in results],
        "norms": [float(result.grad_norm) for result in results],
        "weights": {name: tensor.flatten().tolist() for name, tensor in weights.items()},
    }


def _memory(runtime: Runtime, folder: str) -> dict[str, float]:
    """Return bytes a parameter of every class, after a step."""
    model = TinyModel(num_blocks=8, vocab=256)
    size = sum(parameter.numel() for parameter in model.parameters())
    trainer = Trainer(
        model,
        next_token_loss,
        RowSource(2, ACCUMULATED, runtime.group.rank, runtime.group.size),
        train_config(STEPS),
        runtime,
        workspace(Path(folder)),
    )
    trainer.train_step(trainer.source.next_batches())
    values = trainer._memory.read()
    return {name: values[f"memory_{name}_bytes"] / size for name in ("parameters", "gradients", "optimizer")}


def _resume(first: Runtime, stage: int, folder: Path) -> dict[str, Any]:
    """Move a run from fsdp to the engine and back; say what each has, and how each goes on."""
    engine, fsdp = _engine(first, stage), with_strategy(first, "fsdp")
    folder = folder / f"stage{stage}"
    saved = [_go(fsdp, folder, 2, resumes=False)]
    saved += [_go(engine, folder, 3), _go(fsdp, folder, 4)]
    return {"found": [run["found"] for run in saved], "left": [run["left"] for run in saved]}


def _go(runtime: Runtime, folder: Path, to_step: int, *, resumes: bool = True) -> dict[str, Any]:
    trainer = _trainer(runtime, folder, checkpoint=CheckpointConfig(every_steps=1))
    assert trainer.resume() is resumes
    found = _whole_state(trainer)
    while trainer.step < to_step:
        trainer.train_step(trainer.source.next_batches())
        trainer.step += 1
    trainer._save()
    trainer._checkpointer.close()
    return {"found": found, "left": _whole_state(trainer)}


def _whole_state(trainer: Trainer) -> str:
    from portable.parallel.gather import gather_whole

    mesh = trainer.runtime.mesh
    return weights_hash(
        {
            name: value if shard is None else gather_whole(value, shard.placement, mesh)
            for name, (value, shard) in sorted(trainer.model.strategy.state().items())
        }
    )


def _message(plant: Callable[[Runtime], None], runtime: Runtime) -> str:
    try:
        plant(runtime)
    except PortableError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def _looked_at(**changes: Any) -> Callable[[Runtime], None]:
    """Look at an engine that is another than asked for in one respect."""

    def plant(runtime: Runtime) -> None:
        trainer = _trainer(_engine(runtime, 2), Path("unused"))
        strategy = trainer.model.strategy
        seen = SimpleNamespace(**{name: getattr(strategy.engine, name) for name in _SEEN} | changes)
        ranks = RankTable(runtime.mesh)
        check_engine(seen, strategy.config, strategy.precision, ranks, runtime.device)

    return plant


_SEEN = (
    *("zero_optimization_stage", "seq_data_parallel_group", "mp_world_size", "get_data_types"),
    *("gradient_clipping", "optimizer"),
)


def _muon(runtime: Runtime) -> None:
    _trainer(_engine(runtime, 2), Path("unused"), optim=MuonConfig())


def _other_ranks(runtime: Runtime) -> None:
    """Look at an engine over all ranks where each was to be alone."""
    trainer = _trainer(_engine(runtime, 2), Path("unused"))
    strategy = trainer.model.strategy
    alone = with_strategy(runtime, "ddp", parallel=ParallelConfig(tensor_parallel_degree=2)).mesh
    check_engine(strategy.engine, strategy.config, strategy.precision, RankTable(alone), runtime.device)


def _other_device(runtime: Runtime) -> None:
    trainer = _trainer(_engine(runtime, 2), Path("unused"))
    strategy = trainer.model.strategy
    device = SimpleNamespace(torch_type="meta")
    check_engine(strategy.engine, strategy.config, strategy.precision, RankTable(runtime.mesh), device)


def _narrow_stage_0(runtime: Runtime) -> None:
    _engine(runtime, 0, NARROW).new_strategy()


def _half(runtime: Runtime) -> None:
    _engine(runtime, 1, PrecisionConfig(compute_dtype=Dtype.fp16)).new_strategy()


def _narrow_weights(runtime: Runtime) -> None:
    precision = PrecisionConfig(param_dtype=Dtype.bf16, compute_dtype=Dtype.bf16)
    _engine(runtime, 1, precision).new_strategy()


_FAULTS: dict[str, Callable[[Runtime], None]] = {
    "class": _looked_at(),  # a SimpleNamespace is no engine
    "stage": _looked_at(zero_optimization_stage=lambda: 1),
    "copies": _looked_at(mp_world_size=2),
    "format": _looked_at(get_data_types=lambda: (Dtype.bf16.torch(), None)),
    "clipping": _looked_at(gradient_clipping=lambda: 1.0),
    "optimiser": _looked_at(optimizer=nn.Identity()),
    "muon": _muon,
    "ranks": _other_ranks,
    "device": _other_device,
    "bf16 at stage 0": _narrow_stage_0,
    "bf16 weights": _narrow_weights,
    "fp16": _half,
}
