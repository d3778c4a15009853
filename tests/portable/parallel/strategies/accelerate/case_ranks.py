"""What ranks find out about accelerate."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState
from torch import nn
from transformers.integrations import is_deepspeed_zero3_enabled

from portable.core.errors import PortableError
from portable.device.protocol import Dtype
from portable.parallel.gather import gather_whole
from portable.parallel.runtime import Runtime
from portable.parallel.strategies.accelerate.config import AccelerateConfig
from portable.parallel.strategies.accelerate.join import check_joined, check_prepared
from portable.testing.runtime import make_runtime, with_strategy
from portable.testing.strategy.case import train
from portable.testing.strategy.tiny import RowSource, TinyModel, train_config, workspace
from portable.train.config import MuonConfig
from portable.train.next_token import next_token_loss
from portable.train.trainer import Trainer

OF_STAGE = ("ddp", "zero1", "zero2", "zero3")


def run(backend_name: str, folder: str, plugin: str) -> dict[str, Any]:
    """Train under accelerate and under our own counterpart, go on from its state, plant faults."""
    first = make_runtime(backend_name, "ddp")
    runtime = with_strategy(first, "accelerate", plugin=plugin)
    own = with_strategy(first, {"ddp": "ddp", "fsdp2": "fsdp"}[plugin])
    muon = MuonConfig(iteration_dtype=Dtype.fp32)
    report: dict[str, Any] = {
        "own": train(own, folder),
        "own_muon": train(own, folder, optim=muon),
        "trained": train(runtime, folder),
        "muon": train(runtime, folder, optim=muon),
        "again": train(runtime, folder)["hash"],
        "resumed": _resumed(runtime, own, folder),
        "environment": sorted(name for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_"))),
    }
    if plugin == "ddp":
        report["faults"] = {name: _message(plant, runtime) for name, plant in FAULTS.items()}
    first.group.close()
    return report


def stages(backend_name: str, folder: str, *asked: str) -> dict[str, Any]:
    """Train at DeepSpeed's stages through accelerate and under our own counterparts."""
    first = make_runtime(backend_name, "ddp")
    report: dict[str, Any] = {}
    for stage in asked:
        runtime = with_strategy(first, "accelerate", plugin="deepspeed", stage=int(stage))
        own = with_strategy(first, OF_STAGE[int(stage)])
        report[stage] = {
            "own": train(own, folder),
            "trained": train(runtime, folder),
            "again": train(runtime, folder)["hash"],
            "resumed": _resumed(runtime, own, folder),
        }
    report["tells transformers"] = is_deepspeed_zero3_enabled()
    report["environment"] = sorted(name for name in os.environ if name.startswith("ACCELERATE_"))
    first.group.close()
    return report


def _resumed(runtime: Runtime, own: Runtime, folder: str) -> list[float]:
    """Return how far weights are off after a step more, from state that other strategies wrote and read."""
    ended: list[dict[str, torch.Tensor]] = []
    for start, end in ((runtime, own), (own, runtime), (own, own)):
        before, after = _trainer(start, folder), _trainer(end, folder)
        before.train_step(before.source.next_batches())
        whole = {
            name: value if shard is None else gather_whole(value, shard.placement, start.mesh)
            for name, (value, shard) in before.model.strategy.state().items()
        }
        after.model.strategy.load_state(
            {
                name: whole[name] if shard is None else shard.placement.extent(end.mesh).of(whole[name])
                for name, (_, shard) in after.model.strategy.state().items()
            }
        )
        after.source.load_state_dict(before.source.state_dict())
        after.train_step(after.source.next_batches())
        ended.append(after.model.whole_weights())
    return [max(float((found[name] - ended[-1][name]).abs().max()) for name in found) for found in ended[:2]]


def _trainer(runtime: Runtime, folder: str) -> Trainer:
    group = runtime.group
    source = RowSource(2, 2, group.rank, group.size)
    config = train_config(4)
    return Trainer(TinyModel(), next_token_loss, source, config, runtime, workspace(Path(folder)))


def _message(plant: Callable[[Runtime], None], runtime: Runtime) -> str:
    kept = dict(os.environ)
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ |= {"RANK": str(runtime.group.rank), "LOCAL_RANK": str(runtime.group.rank)}
    try:
        plant(runtime)
    except PortableError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        os.environ.clear()
        os.environ.update(kept)
        AcceleratorState._reset_state(reset_partial_state=True)
    return "no error"


def _check(accelerator: Accelerator, plugin: str, runtime: Runtime) -> None:
    check_joined(accelerator, AccelerateConfig(plugin=plugin), runtime.group, runtime.device)


def _fsdp_on_cpu(runtime: Runtime) -> None:
    _check(
        Accelerator(cpu=True, fsdp_plugin=FullyShardedDataParallelPlugin(fsdp_version=2)), "fsdp2", runtime
    )


def _fsdp_alone(runtime: Runtime) -> None:
    _check(
        Accelerator(cpu=False, fsdp_plugin=FullyShardedDataParallelPlugin(fsdp_version=2)), "fsdp2", runtime
    )


def _deepspeed_on_cpu(runtime: Runtime) -> None:
    accelerator = Accelerator(cpu=True, deepspeed_plugin=DeepSpeedPlugin(zero_stage=1))
    _check(accelerator, "deepspeed", runtime)


def _deepspeed_alone(runtime: Runtime) -> None:
    _check(Accelerator(cpu=False, deepspeed_plugin=DeepSpeedPlugin(zero_stage=1)), "deepspeed", runtime)


def _ddp_alone(runtime: Runtime) -> None:
    _check(Accelerator(cpu=False), "ddp", runtime)


def _not_wrapped(runtime: Runtime) -> None:
    check_prepared(nn.Linear(2, 2), AccelerateConfig(), runtime.group)


def _other_group(runtime: Runtime) -> None:
    other = runtime.group.split("other", [[0, 1]])
    network = nn.parallel.DistributedDataParallel(nn.Linear(2, 2), process_group=other.process_group)
    check_prepared(network, AccelerateConfig(), runtime.group)


def _asked_for_fsdp(runtime: Runtime) -> None:
    with_strategy(runtime, "accelerate", plugin="fsdp2").new_strategy()


FAULTS: dict[str, Callable[[Runtime], None]] = {
    "fsdp2 on the CPU": _fsdp_on_cpu,
    "fsdp2 alone": _fsdp_alone,
    "deepspeed on the CPU": _deepspeed_on_cpu,
    "deepspeed alone": _deepspeed_alone,
    "ddp alone": _ddp_alone,
    "not wrapped": _not_wrapped,
    "other group": _other_group,
    "asked for fsdp2": _asked_for_fsdp,
}
