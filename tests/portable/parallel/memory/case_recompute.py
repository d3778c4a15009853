"""The trainer over layouts with and without recomputation, on the ranks that a test starts."""

from __future__ import annotations

from typing import Any

from portable.parallel.config import ParallelConfig, RecomputeConfig
from portable.testing.runtime import make_runtime, with_strategy
from tests.portable.parallel.case_spread import MODELS, TWO, train

LAYOUTS = ("fsdp", "zero2", "tp+sp", "cp", "cp, ulysses", "pp", "ep, ddp", "ep, fsdp", "moe, tp+sp")
MODES = {
    "full": RecomputeConfig(mode="full"),
    "selective": RecomputeConfig(mode="selective"),
    "budget": RecomputeConfig(mode="budget", budget=0.6),
}


def together(*only: str) -> dict[str, dict[str, Any]]:
    """Return by layout and mode what every rank saw; mode "none" is what the others are held against."""
    runtime = make_runtime("cpu", "ddp")
    report: dict[str, dict[str, Any]] = {}
    for name in only or LAYOUTS:
        model, strategy, settings = TWO[name]
        report[name] = {}
        for mode, config in {"none": RecomputeConfig(), **MODES}.items():
            try:
                layout = ParallelConfig(**settings, recompute=config)
                report[name][mode] = train(with_strategy(runtime, strategy, parallel=layout), MODELS[model])
            except Exception as error:
                raise RuntimeError(f"layout '{name}' with recompute.mode={mode} failed") from error
    runtime.group.close()
    return report
