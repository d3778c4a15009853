"""DeepSpeed's engine over context and tensor parallelism, in real processes."""

from __future__ import annotations

from typing import Any

from portable.core.errors import PortableError
from portable.parallel.config import ParallelConfig
from portable.parallel.runtime import Runtime
from portable.testing.runtime import make_runtime, with_strategy
from tests.portable.parallel.case_spread import MODELS, train

# name: (model, stage, settings of parallelism)
TWO: dict[str, tuple[str, int, dict[str, Any]]] = {
    "cp, 1": ("dense", 1, {"context_parallel_degree": 2}),
    "cp, 3": ("dense", 3, {"context_parallel_degree": 2}),
    "ulysses, 2": ("dense", 2, {"context_parallel_degree": 2, "context_parallel_method": "ulysses"}),
    "tp, 1": ("dense", 1, {"tensor_parallel_degree": 2, "enable_sequence_parallel": False}),
    "tp+sp, 0": ("dense", 0, {"tensor_parallel_degree": 2}),
    "tp+sp, untied, 2": ("untied", 2, {"tensor_parallel_degree": 2}),
    "tp+sp, untied, 3": ("untied", 3, {"tensor_parallel_degree": 2}),
    "moe, 2": ("moe", 2, {}),
    "moe, tp+sp, 3": ("moe", 3, {"tensor_parallel_degree": 2}),
}
FOUR: dict[str, tuple[str, int, dict[str, Any]]] = {
    f"{name}, {stage}": ("dense", stage, settings)
    for name, settings in (
        ("tp+sp, data", {"tensor_parallel_degree": 2}),
        ("tp, cp", {"tensor_parallel_degree": 2, "context_parallel_degree": 2}),
        ("tp 2d", {"tensor_parallel_degree": 4, "tensor_parallel_mode": "2d"}),
    )
    for stage in (1, 2, 3)
}


def run() -> dict[str, Any]:
    """Train every layout for the number of ranks, and ask for two that cannot be."""
    first = make_runtime("cpu", "ddp")
    report: dict[str, Any] = {
        name: train(_engine(first, stage, **settings), MODELS[model])
        for name, (model, stage, settings) in (TWO if first.group.size == 2 else FOUR).items()
    }
    report["experts"] = _message(first, expert_parallel_degree=2)
    report["stages"] = _message(first, pipeline_parallel_degree=2)
    first.group.close()
    return report


def _engine(first: Runtime, stage: int, **settings: Any) -> Runtime:
    return with_strategy(
        first,
        "deepspeed",
        parallel=ParallelConfig(**settings),
        stage=stage,
        stage3_param_persistence_threshold=0,
        reduce_bucket_size=100_000,
    )


def _message(first: Runtime, **settings: Any) -> str:
    try:
        _engine(first, 2, **settings).new_strategy()
    except PortableError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"
