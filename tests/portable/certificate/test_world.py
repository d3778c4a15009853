"""How many processes a certificate starts."""

import pytest

from portable.certificate.world import fitting_world
from portable.core.errors import ConfigError
from portable.parallel.config import ParallelConfig


@pytest.mark.parametrize(
    ("strategy", "settings", "world"),
    [
        ("single", {}, 1),
        ("single", {"tensor_parallel_degree": 2, "pipeline_parallel_degree": 3}, 6),
        ("ddp", {"tensor_parallel_degree": 2}, 4),
        ("fsdp", {}, 2),
        ("fsdp", {"data_parallel_shard_degree": 3}, 3),
        ("hsdp", {"data_parallel_replicate_degree": 2}, 4),
        ("ddp", {"expert_parallel_degree": 4}, 4),
    ],
)
def test_the_smallest_world_that_the_layout_fills(
    strategy: str, settings: dict[str, int], world: int
) -> None:
    assert fitting_world(ParallelConfig(**settings), strategy) == world


def test_a_layout_that_no_world_fills_is_refused() -> None:
    with pytest.raises(ConfigError, match="strategy=hsdp"):
        fitting_world(ParallelConfig(data_parallel_replicate_degree=1), "hsdp")
