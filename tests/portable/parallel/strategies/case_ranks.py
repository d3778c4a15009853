"""What ranks find out about the strategies that spread a model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from portable.core.errors import PortableError
from portable.device.protocol import Dtype
from portable.parallel.config import ParallelConfig, PrecisionConfig
from portable.parallel.gather import gather_whole
from portable.parallel.gradient import local
from portable.parallel.runtime import Runtime
from portable.parallel.strategy import Strategy
from portable.parallel.whole import whole_weights
from portable.testing.runtime import make_runtime, with_strategy
from tests.bench import model_state_memory
from tests.portable.parallel.strategies import fault
from tests.portable.parallel.strategies.odd import Odd, cut_experts, expected_gradients, samples

CONTEXT = ParallelConfig(context_parallel_degree=2)
EXPERTS = ParallelConfig(expert_parallel_degree=2)
WIDE = PrecisionConfig()
MIXED = PrecisionConfig(compute_dtype=Dtype.bf16)
NARROW_SUM = PrecisionConfig(compute_dtype=Dtype.bf16, reduce_dtype=Dtype.bf16)
NARROW = PrecisionConfig(param_dtype=Dtype.bf16, compute_dtype=Dtype.bf16)

PAIR = {
    **{name: (name, ParallelConfig()) for name in ("ddp", "zero1", "zero2", "zero3", "fsdp")},
    **{f"{name}, cp": (name, CONTEXT) for name in ("single", "ddp", "zero1", "zero2", "fsdp")},
    **{f"{name}, ep": (name, EXPERTS) for name in ("ddp", "zero1", "zero2", "fsdp")},
}
REPLICAS = {"data_parallel_replicate_degree": 2}
FOUR = {
    **{f"{name}, dp2": (name, ParallelConfig(**REPLICAS)) for name in ("zero1", "zero2", "hsdp")},
    **{
        f"{name}, dp2 cp2": (name, ParallelConfig(**REPLICAS, context_parallel_degree=2))
        for name in ("ddp", "zero1", "zero2", "fsdp")
    },
    **{
        f"{name}, dp2 ep2": (name, ParallelConfig(**REPLICAS, expert_parallel_degree=2))
        for name in ("zero1", "zero2", "hsdp")
    },
    **{f"{name}, ep2": (name, EXPERTS) for name in ("ddp", "zero1", "zero2", "fsdp")},
    "zero1, all experts": ("zero1", ParallelConfig()),
    "fsdp, all experts": ("fsdp", ParallelConfig()),
}


def run(wanted: str) -> dict[str, Any]:
    """Compare gradients under every layout; with two ranks, number formats and planted faults too."""
    first = make_runtime("cpu", "ddp")
    cases = {"pair": PAIR, "four": FOUR}[wanted]
    report: dict[str, Any] = {
        "gradients": {
            name: _difference(with_strategy(first, strategy, parallel=parallel))
            for name, (strategy, parallel) in cases.items()
        }
    }
    if wanted == "pair":
        report |= {
            "formats": _formats(first),
            "synced": {
                name: _synced(with_strategy(first, name)) for name in ("ddp", "zero1", "zero2", "fsdp")
            },
            "by_hand": {name: _by_hand(with_strategy(first, name)) for name in ("ddp", "zero1", "zero2")},
            "filled": {
                name: _filled(with_strategy(first, name)) for name in ("ddp", "zero1", "zero2", "fsdp")
            },
            "faults": {name: _message(plant, first) for name, plant in fault.ALL.items()},
        }
    report["memory"] = model_state_memory.measure(
        first, width={"pair": 257, "four": 404}[wanted], num_layers=3
    )
    first.group.close()
    return report


def _wrap(runtime: Runtime, model: Odd) -> Strategy:
    strategy = runtime.new_strategy()
    strategy.wrap([model], cut_experts(model, runtime.mesh))
    return strategy


def _step(runtime: Runtime, strategy: Strategy, model: Odd, num_micro_batches: int) -> None:
    for micro_batch in range(num_micro_batches):
        strategy.accumulate(last=micro_batch == num_micro_batches - 1)
        strategy.backward(model(samples(runtime.mesh.index("data"), micro_batch)))
    strategy.reduce_gradients()


def _difference(runtime: Runtime) -> float:
    """Return the largest error of a gradient, relative to that parameter's largest entry."""
    model = Odd()
    strategy = _wrap(runtime, model)
    _step(runtime, strategy, model, 2)
    expected = expected_gradients(runtime.mesh, 2)
    norm = torch.nn.utils.get_total_norm(list(expected.values()))
    error = float((strategy.clip_grad_norm(0.0) / norm - 1).abs())
    strategy.clip_grad_norm(float(norm) / 2)
    halved = {name: gradient / 2 for name, gradient in expected.items()}
    return max(error, _compare(runtime, strategy, halved))


def _compare(runtime: Runtime, strategy: Strategy, expected: dict[str, torch.Tensor]) -> float:
    worst = 0.0
    for shard in strategy.shards():
        found = gather_whole(local(shard.parameter.grad), shard.placement, runtime.mesh).float()
        wanted = expected.pop(shard.name)
        if found.shape != wanted.shape:
            return float("inf")
        if found.numel():
            worst = max(worst, float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-9)))
    return worst if not expected else float("inf")


def _formats(runtime: Runtime) -> dict[str, Any]:
    """What number formats parameters, parts and gradients have, and how far gradients are off."""
    report: dict[str, Any] = {}
    for kind, precision in (("mixed", MIXED), ("narrow sum", NARROW_SUM), ("narrow", NARROW)):
        for name in ("ddp", "zero1", "zero2", "fsdp"):
            own, model = with_strategy(runtime, name, precision), Odd()
            strategy = _wrap(own, model)
            with own.device.autocast(precision.compute_dtype):
                losses = [model(samples(own.mesh.index("data"), micro_batch)) for micro_batch in range(1)]
            strategy.backward(losses[0])
            strategy.reduce_gradients()
            table = next(shard.parameter for shard in strategy.shards() if shard.name == "table")
            report[f"{name}, {kind}"] = {
                "module": str(local(model.table).dtype),
                "part": str(table.dtype),
                "gradient": str(table.grad.dtype),
                "error": _compare(own, strategy, expected_gradients(own.mesh, 1)),
            }
    return report


def _synced(runtime: Runtime) -> list[bool]:
    """Whether this rank holds more than its own gradient after each of two backward passes."""
    model = Odd()
    strategy = _wrap(runtime, model)
    sent: list[bool] = []
    for last in (False, True):
        calls = _count_calls(runtime, lambda last=last: _one(runtime, strategy, model, last=last))
        sent.append(calls > 0)
    return sent


def _one(runtime: Runtime, strategy: Strategy, model: nn.Module, *, last: bool) -> None:
    strategy.accumulate(last=last)
    strategy.backward(model(samples(runtime.mesh.index("data"), 0)))


def _count_calls(runtime: Runtime, act: Any) -> int:
    """Return how many reductions ran: those of groups, and those of torch."""
    with torch.profiler.profile() as profile:
        act()
    return sum("reduce" in event.key and "gloo" in event.key for event in profile.key_averages())


def _by_hand(runtime: Runtime) -> float:
    """Gradients that no hook saw, as a pipeline schedule leaves them, travel in the end."""
    model = Odd()
    strategy = _wrap(runtime, model)
    strategy.accumulate(last=False)
    loss = model(samples(runtime.mesh.index("data"), 0))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter, gradient in zip(
        trained, torch.autograd.grad(loss, trained, allow_unused=True), strict=True
    ):
        parameter.grad = gradient
    strategy.reduce_gradients()
    return _compare(runtime, strategy, expected_gradients(runtime.mesh, 1))


def _filled(runtime: Runtime) -> bool:
    """Whether every rank has the whole model after each wrote its own parts of another."""
    model, other = Odd(seed=1), dict(Odd(seed=2).named_parameters())
    strategy = _wrap(runtime, model)
    with torch.no_grad():
        for shard in strategy.holdings():
            local(shard.parameter).copy_(shard.placement.extent(runtime.mesh).of(other[shard.name]))
    strategy.publish()
    held = dict(whole_weights(strategy.holdings(), runtime.mesh, runtime.device))
    computes = model(samples(0, 0))
    return (
        held.keys() == other.keys()
        and all(torch.equal(held[name], other[name]) for name in held)
        and bool(torch.allclose(computes, Odd(seed=2)(samples(0, 0))))
    )


def _message(plant: Any, runtime: Runtime) -> str:
    try:
        plant(runtime)
    except PortableError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"
