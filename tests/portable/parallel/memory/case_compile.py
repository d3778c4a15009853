"""The trainer over layouts with compiled blocks, on the ranks that a test starts."""

from __future__ import annotations

from typing import Any

import torch

from portable.parallel.config import CompileConfig, ParallelConfig, RecomputeConfig
from portable.testing.runtime import make_runtime, with_strategy
from tests.portable.parallel.case_spread import MODELS, TWO, train

LAYOUTS = ("fsdp", "tp+sp", "cp", "cp, ulysses", "pp", "ep, fsdp", "moe, tp+sp")


def together(mode: str = "none", *only: str) -> dict[str, dict[str, Any]]:
    """Return by layout what every rank saw, and how many graphs there were."""
    runtime = make_runtime("cpu", "ddp")
    report: dict[str, dict[str, Any]] = {}
    counters: Any = torch._dynamo.utils.counters
    for name in only or LAYOUTS:
        model, strategy, settings = TWO[name]
        report[name] = {}
        for key, on in (("eager", False), ("compiled", True)):
            torch._dynamo.reset()
            counters.clear()
            layout = ParallelConfig(
                **settings, recompute=RecomputeConfig(mode=mode), compile=CompileConfig(enable=on)
            )
            try:
                own = with_strategy(runtime, strategy, parallel=layout)
                found = train(own, MODELS[model])
            except Exception as error:
                raise RuntimeError(f"layout '{name}', {key}, failed") from error
            breaks = {text.split("\n")[0]: count for text, count in counters["graph_break"].items()}
            report[name][key] = found | {
                "graphs": counters["stats"]["unique_graphs"],
                "breaks": breaks,
                "modules": own.modules,
            }
    runtime.group.close()
    return report
