"""Impossible layouts are refused before anything is built, and the refusal tells what is possible."""

from __future__ import annotations

from typing import Any

import pytest

from portable.core.errors import ConfigError
from portable.model.config import ModelConfig, MoeConfig
from portable.parallel.check import check_layout
from portable.parallel.config import ParallelConfig

SIZES: dict[str, Any] = {"num_layers": 6, "num_heads": 8, "num_kv_heads": 4, "head_dim": 8, "hidden_size": 64}
DENSE = ModelConfig(**SIZES, intermediate_size=96)
SPARSE = ModelConfig(**SIZES, moe=MoeConfig(num_experts=6, top_k=2, intermediate_size=32))
POSSIBLE: list[tuple[ModelConfig, dict[str, Any]]] = [
    (DENSE, {}),
    (SPARSE, {}),
    (DENSE, {"tensor_parallel_degree": 8}),
    (DENSE, {"tensor_parallel_degree": 4, "tensor_parallel_mode": "2d"}),
    (DENSE, {"context_parallel_degree": 3}),
    (DENSE, {"pipeline_parallel_degree": 4}),
    (DENSE, {"pipeline_parallel_degree": 2, "pipeline_parallel_layers_per_stage": [1, 5]}),
    (SPARSE, {"expert_parallel_degree": 6, "tensor_parallel_degree": 2, "context_parallel_degree": 2}),
    (SPARSE, {"tensor_parallel_degree": 2, "enable_sequence_parallel": False}),
]
IMPOSSIBLE: list[tuple[ModelConfig, dict[str, Any], str]] = [
    (DENSE, {"tensor_parallel_degree": 3}, "tensor_parallel_degree=3 .* use one of .*1, 2, 4, 8"),
    (DENSE, {"tensor_parallel_degree": 6, "tensor_parallel_mode": "2d"}, "use one of .*4, 9"),
    (DENSE, {"tensor_parallel_degree": 4, "tensor_parallel_mode": "3d"}, "use one of .*8, 27"),
    (
        DENSE,
        {"context_parallel_degree": 3, "context_parallel_method": "ulysses"},
        "8 query heads and 4 key-value heads.*context_parallel_method=ring",
    ),
    (
        DENSE,
        {"context_parallel_degree": 4, "context_parallel_method": "hybrid"},
        "context_parallel_ulysses_degree=1 .*use 2",
    ),
    (DENSE, {"pipeline_parallel_degree": 8}, "6 blocks for 8 pipeline stages; use at most 6"),
    (
        DENSE,
        {"pipeline_parallel_degree": 2, "pipeline_parallel_layers_per_stage": [1, 4]},
        r"pipeline_parallel_layers_per_stage=\[1, 4\].*6",
    ),
    (
        DENSE,
        {"pipeline_parallel_degree": 2, "pipeline_parallel_schedule": "Interleaved1F1B"},
        "a step has 5; accumulate e.g. one of",
    ),
    (DENSE, {"pipeline_parallel_degree": 2, "pipeline_parallel_schedule": "2F3B"}, "Use one of .*1F1B"),
    (DENSE, {"expert_parallel_degree": 2}, "the model has no experts; use 1"),
    (SPARSE, {"expert_parallel_degree": 4}, r"of the 6 experts.*use one of \[1, 2, 3, 6\]"),
    (
        SPARSE,
        {"expert_parallel_degree": 2, "tensor_parallel_degree": 2, "enable_sequence_parallel": False},
        "enable_sequence_parallel=true",
    ),
    (SPARSE, {"context_parallel_degree": 5}, "seq_len=24 .*use 20 or 30, or any multiple of 10"),
    (
        SPARSE,
        {"context_parallel_degree": 5, "context_parallel_load_balancer": "none"},
        "use 20 or 25, or any multiple of 5",
    ),
    (
        SPARSE,
        {"context_parallel_degree": 4, "tensor_parallel_degree": 4, "expert_parallel_degree": 2},
        "use 16 or 32, or any multiple of 16",
    ),
]


@pytest.mark.parametrize(("model", "settings"), POSSIBLE)
def test_what_can_be_divided_passes(model: ModelConfig, settings: dict[str, Any]):
    check_layout(ParallelConfig(**settings), model, seq_len=24, num_micro_batches=5)


@pytest.mark.parametrize(("model", "settings", "told"), IMPOSSIBLE)
def test_what_cannot_is_refused_with_what_can(model: ModelConfig, settings: dict[str, Any], told: str):
    with pytest.raises(ConfigError, match=told):
        check_layout(ParallelConfig(**settings), model, seq_len=24, num_micro_batches=5)
