"""The trainer over layouts, in real processes: what every rank saw, and the whole weights at the end."""

from __future__ import annotations

from typing import Any

from portable.parallel.config import ParallelConfig
from portable.testing.runtime import make_runtime, with_strategy
from portable.testing.strategy.decoder import MODELS, train

# name: (model, strategy, settings of parallelism)
TWO: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ddp": ("dense", "ddp", {}),
    "zero1": ("dense", "zero1", {}),
    "zero2": ("dense", "zero2", {}),
    "fsdp": ("dense", "fsdp", {}),
    "tp": ("dense", "single", {"tensor_parallel_degree": 2, "enable_sequence_parallel": False}),
    "tp+sp": ("dense", "single", {"tensor_parallel_degree": 2}),
    "tp+sp, untied": ("untied", "single", {"tensor_parallel_degree": 2}),
    "pp": ("dense", "single", {"pipeline_parallel_degree": 2}),
    "pp, untied": ("untied", "single", {"pipeline_parallel_degree": 2}),
    "cp": ("dense", "single", {"context_parallel_degree": 2}),
    "cp, ulysses": ("dense", "single", {"context_parallel_degree": 2, "context_parallel_method": "ulysses"}),
    "cp, ddp": ("dense", "ddp", {"context_parallel_degree": 2}),
    "cp, fsdp": ("dense", "fsdp", {"context_parallel_degree": 2}),
    "ep, ddp": ("moe", "ddp", {"expert_parallel_degree": 2}),
    "ep, fsdp": ("moe", "fsdp", {"expert_parallel_degree": 2}),
    "moe, tp+sp": ("moe", "single", {"tensor_parallel_degree": 2}),
    "moe, pp": ("moe", "single", {"pipeline_parallel_degree": 2}),
}


def alone() -> dict[str, Any]:
    """All models in one process."""
    runtime = make_runtime()
    return {name: train(runtime, model) for name, model in MODELS.items()}


def together(backend: str = "cpu", *only: str) -> dict[str, Any]:
    """All layouts of two ranks, one after the other."""
    runtime = make_runtime(backend, "ddp")
    report: dict[str, Any] = {}
    for name, (model, strategy, settings) in TWO.items():
        if only and name not in only:
            continue
        try:
            own = with_strategy(runtime, strategy, parallel=ParallelConfig(**settings))
            report[name] = train(own, MODELS[model])
        except Exception as error:
            raise RuntimeError(f"layout '{name}' failed") from error
    runtime.group.close()
    return report
