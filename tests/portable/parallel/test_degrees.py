from typing import Any

import pytest

from portable.core.errors import ConfigError
from portable.parallel.config import ParallelConfig
from portable.parallel.degrees import make_layout
from portable.parallel.layout import Layout


@pytest.mark.parametrize(
    ("strategy", "settings", "size", "wanted"),
    [
        ("single", {}, 1, Layout()),
        ("single", {"tensor_parallel_degree": 2}, 2, Layout(tp=2)),
        ("ddp", {}, 4, Layout(dp=4)),
        ("zero1", {}, 4, Layout(fsdp=4)),
        ("fsdp", {"tensor_parallel_degree": 2}, 4, Layout(fsdp=2, tp=2)),
        ("fsdp", {"data_parallel_replicate_degree": 2}, 4, Layout(dp=2, fsdp=2)),
        ("hsdp", {"data_parallel_shard_degree": 2, "data_parallel_replicate_degree": -1}, 8, None),
        ("hsdp", {"data_parallel_replicate_degree": 2}, 8, Layout(dp=2, fsdp=4)),
        ("ddp", {"pipeline_parallel_degree": 2, "context_parallel_degree": 2}, 8, Layout(pp=2, dp=2, cp=2)),
        ("somebody's own", {}, 2, Layout(dp=2)),
        ("ddp", {"expert_parallel_degree": 2}, 4, Layout(dp=4, ep=2)),
    ],
)
def test_the_strategy_takes_the_ranks_that_are_left(
    strategy: str, settings: dict[str, Any], size: int, wanted: Layout | None
) -> None:
    found = make_layout(ParallelConfig(**settings), strategy, size)
    assert found == (wanted or Layout(dp=4, fsdp=2))


@pytest.mark.parametrize(
    ("strategy", "settings", "size", "text"),
    [
        ("single", {}, 2, "train 2 models that never meet; use strategy=ddp"),
        ("ddp", {"tensor_parallel_degree": 3}, 4, r"= 3 do not divide the 4 processes.*\[1, 2, 4\]"),
        ("ddp", {"data_parallel_replicate_degree": 3}, 4, r"does not fill the 4 processes.*\[1, 2, 4\]"),
        ("ddp", {"data_parallel_shard_degree": 2}, 4, "means nothing to strategy=ddp"),
        ("hsdp", {}, 4, "both must be 2 or more; set parallel.data_parallel_replicate_degree"),
        ("ddp", {"expert_parallel_degree": 3}, 4, r"expert_parallel_degree=3 does not divide.*\[1, 2, 4\]"),
    ],
)
def test_degrees_that_do_not_fit_are_refused(
    strategy: str, settings: dict[str, Any], size: int, text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        make_layout(ParallelConfig(**settings), strategy, size)


@pytest.mark.parametrize(
    "settings",
    [
        {"tensor_parallel_degree": 0},
        {"data_parallel_shard_degree": 0},
        {"tensor_parallel_mode": "4d"},
        {"context_parallel_method": "p2p"},
    ],
)
def test_settings_that_mean_nothing_name_themselves(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(ConfigError, match=f"parallel.{name}="):
        ParallelConfig(**settings)
