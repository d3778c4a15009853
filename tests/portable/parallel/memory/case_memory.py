"""Tiles, 8-bit matmuls and loss scaling over layouts, on the ranks that a test starts."""

from __future__ import annotations

from typing import Any

from portable.device.protocol import Dtype
from portable.parallel.config import (
    Float8Config,
    LossScaleConfig,
    ParallelConfig,
    PrecisionConfig,
    RecomputeConfig,
    TileConfig,
)
from portable.testing.runtime import make_runtime, with_strategy
from tests.portable.parallel.case_spread import MODELS, TWO, train

TILED = ("zero2", "fsdp", "tp+sp", "pp")
LINEAR_MB = 0.0015  # a weight of 32 x 48 numbers takes 0.0059
NARROW = ("ddp", "zero2", "fsdp", "pp")


def together() -> dict[str, Any]:
    """Return what every rank saw: by layout, what was changed, and then the trainer's own report."""
    runtime = make_runtime("cpu", "ddp")
    report: dict[str, Any] = {}

    def run(name: str, what: str, precision: PrecisionConfig | None = None, **passes: Any) -> None:
        model, strategy, settings = TWO[name]
        layout = ParallelConfig(**settings, **passes)
        try:
            own = with_strategy(runtime, strategy, precision or PrecisionConfig(), layout)
            report.setdefault(name, {})[what] = train(own, MODELS[model])
        except Exception as error:
            raise RuntimeError(f"layout '{name}' with {what} failed") from error

    for name in TILED:
        run(name, "nothing")
        run(name, "tiles", tile=TileConfig(mlp_chunks=3))
        run(
            name,
            "tiles and recomputation",
            tile=TileConfig(mlp_chunks=3),
            recompute=RecomputeConfig(mode="full"),
        )
        run(name, "tiled weights", tile=TileConfig(linear_mb=LINEAR_MB))
        run(name, "tiled weights and rows", tile=TileConfig(linear_mb=LINEAR_MB, mlp_chunks=3))
    for name in NARROW:
        run(name, "bf16", PrecisionConfig(compute_dtype=Dtype.bf16))
        for recipe in ("tensorwise", "rowwise"):
            float8 = Float8Config(recipe=recipe, emulate=True)
            run(name, recipe, PrecisionConfig(compute_dtype=Dtype.bf16, float8=float8))
        run(name, "fp16", PrecisionConfig(compute_dtype=Dtype.fp16))
        scale = LossScaleConfig(initial=2.0**40, growth_interval=1)
        run(name, "fp16, overflowing", PrecisionConfig(compute_dtype=Dtype.fp16, loss_scale=scale))
    runtime.group.close()
    return report
