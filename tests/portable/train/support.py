"""A runtime on the CPU for the training tests; what they train is part of ``portable.testing``."""

from __future__ import annotations

from portable.parallel.config import PrecisionConfig
from portable.parallel.runtime import Runtime
from portable.testing import runtime
from portable.testing.strategy.tiny import (
    VOCAB,
    RowSource,
    TinyModel,
    rows_to_batch,
    train_config,
    weights_hash,
    workspace,
)

__all__ = [
    "VOCAB",
    "RowSource",
    "TinyModel",
    "make_runtime",
    "rows_to_batch",
    "train_config",
    "weights_hash",
    "workspace",
]


def make_runtime(
    strategy: str = "single", precision: PrecisionConfig | None = None, backend: str = "cpu"
) -> Runtime:
    return runtime.make_runtime(backend, strategy, precision)
