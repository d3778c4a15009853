"""Settings of context parallelism that are legal, and what the others are told."""

from __future__ import annotations

from typing import Any

import pytest

from portable.core.errors import ConfigError
from portable.parallel.config import ParallelConfig
from portable.parallel.context.check import check_context, ulysses_degree


def config(degree: int, method: str, inner: int = 1, **more: Any) -> ParallelConfig:
    return ParallelConfig(
        context_parallel_degree=degree,
        context_parallel_method=method,
        context_parallel_ulysses_degree=inner,
        **more,
    )


@pytest.mark.parametrize(
    ("settings", "heads", "kv_heads"),
    [
        (config(1, "ulysses"), 3, 3),
        (config(6, "ring"), 3, 1),  # a ring cuts no heads
        (config(4, "ulysses"), 8, 8),
        (config(4, "ulysses", 4), 8, 2),  # key-value heads are repeated
        (config(8, "hybrid", 4), 4, 1),
        (config(2, "ulysses", tensor_parallel_degree=4), 8, 2),
    ],
)
def test_legal(settings: ParallelConfig, heads: int, kv_heads: int):
    check_context(settings, heads, kv_heads)


@pytest.mark.parametrize(
    ("settings", "heads", "kv_heads", "told"),
    [
        (config(4, "ulysses"), 6, 2, "context_parallel_degree=4 cannot divide the 6 query heads and 2"),
        (config(4, "ulysses"), 6, 2, "use context_parallel_method=ring, or hybrid with .*ulysses_degree=2$"),
        (config(3, "ulysses"), 4, 2, "use context_parallel_method=ring$"),
        (config(6, "ulysses"), 12, 4, "or hybrid with context_parallel_ulysses_degree=2$"),
        (config(4, "ulysses", tensor_parallel_degree=2), 6, 2, "3 query heads and 1 .*degree=2"),
        (config(8, "hybrid", 4), 2, 2, "ulysses_degree=4 cannot divide the 2 query heads"),
        (config(8, "hybrid", 3), 6, 6, "ulysses_degree=3 with context_parallel_degree=8 .* use 2 or 4$"),
        (config(2, "hybrid", 2), 6, 6, "use context_parallel_method=ring or ulysses$"),
        (config(4, "ring", 2), 6, 6, "means nothing to context_parallel_method=ring"),
        (config(4, "ulysses", 2), 6, 6, "means nothing to context_parallel_method=ulysses"),
    ],
)
def test_illegal(settings: ParallelConfig, heads: int, kv_heads: int, told: str):
    with pytest.raises(ConfigError, match=told):
        check_context(settings, heads, kv_heads)


def test_the_span_of_the_inner_all_to_all():
    settings = (config(4, "ring"), config(4, "ulysses"), config(4, "hybrid", 2))
    assert [ulysses_degree(item) for item in settings] == [1, 4, 2]
