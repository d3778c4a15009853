from __future__ import annotations

import pytest

from portable.core.errors import ConfigError
from portable.parallel.config import ParallelConfig
from portable.parallel.expert.check import check_expert, legal_degrees


@pytest.mark.parametrize(("num_experts", "legal"), [(1, [1]), (5, [1, 2, 3, 5]), (8, [1, 2, 3, 4, 8])])
def test_every_rank_has_an_expert(num_experts: int, legal: list[int]):
    assert legal_degrees(num_experts) == legal


@pytest.mark.parametrize(
    ("settings", "num_experts", "told"),
    [
        ({"expert_parallel_degree": 2}, 0, "expert_parallel_degree=2, but the model has no experts; use 1"),
        (
            {"expert_parallel_degree": 4},
            5,
            "leaves a rank without any of the 5 experts, of which each takes 2; use one of [1, 2, 3, 5]",
        ),
        ({"expert_parallel_degree": 16}, 8, "use one of [1, 2, 3, 4, 8]"),
        (
            {
                "expert_parallel_degree": 2,
                "tensor_parallel_degree": 2,
                "enable_sequence_parallel": False,
            },
            8,
            "every tensor-parallel rank would send the same tokens; use enable_sequence_parallel=true",
        ),
        (
            {"expert_parallel_degree": 2, "tensor_parallel_degree": 4, "tensor_parallel_mode": "2d"},
            8,
            "use tensor_parallel_mode=1d",
        ),
    ],
)
def test_what_cannot_be_is_told_with_what_can(settings: dict[str, int], num_experts: int, told: str):
    with pytest.raises(ConfigError) as error:
        check_expert(ParallelConfig(**settings), num_experts)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("settings", "num_experts"),
    [
        ({}, 0),
        ({"tensor_parallel_degree": 2, "enable_sequence_parallel": False}, 8),
        ({"expert_parallel_degree": 3}, 8),
        ({"expert_parallel_degree": 2, "tensor_parallel_degree": 2}, 8),
    ],
)
def test_what_can_be_passes(settings: dict[str, int], num_experts: int):
    check_expert(ParallelConfig(**settings), num_experts)
