import pytest

from portable.core.errors import ConfigError
from portable.model.config import ModelConfig, MoeConfig
from portable.parallel.config import ParallelConfig
from portable.parallel.tensor.check import check_tensor, tensor_facts
from tests.portable.parallel.tensor.parity import model_config

EVEN = model_config(intermediate_size=20)


def check(config: ModelConfig, degree: int, mode: str = "1d", depth: int = 1, **others: object) -> None:
    parallel = ParallelConfig(
        tensor_parallel_degree=degree, tensor_parallel_mode=mode, tensor_parallel_depth=depth, **others
    )
    check_tensor(parallel, tensor_facts(config))


@pytest.mark.parametrize(
    ("degree", "mode", "depth"),
    [(1, "1d", 1), (2, "1d", 1), (4, "1d", 1), (4, "2d", 1), (4, "2.5d", 1), (8, "2.5d", 2), (8, "3d", 1)],
)
def test_what_divides_is_taken(degree: int, mode: str, depth: int) -> None:
    check(EVEN, degree, mode, depth)


@pytest.mark.parametrize(
    ("degree", "mode", "depth", "words"),
    [
        (3, "1d", 1, r"4 heads, 2 key-value heads.*use one of \[1, 2, 4\]"),
        (6, "2d", 1, r"no grid of 1 × q × q.*use one of \[4, 9,"),
        (4, "2d", 2, "belongs to tensor_parallel_mode=2.5d"),
        (4, "2.5d", 2, r"no grid of 2 × q × q.*use one of \[8, 18,"),
        (4, "2.5d", 0, "no grid of 0 × q × q"),
        (9, "2d", 1, r"num_heads=4.*use sides of \[1, 2\]"),
        (16, "3d", 1, r"no cube.*use one of \[8, 27,"),
        (27, "3d", 1, r"3 must divide num_heads=4.*use a degree of \[1, 8\]"),
    ],
)
def test_what_does_not_is_refused_with_what_would(degree: int, mode: str, depth: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check(EVEN, degree, mode, depth)


def test_every_rank_needs_columns_of_a_feed_forward_layer() -> None:
    with pytest.raises(ConfigError, match=r"feed-forward sizes \[9\]; use one of \[1, 2\]"):
        check(model_config(intermediate_size=9), 4)


def test_experts_need_divided_tokens_and_one_dimension() -> None:
    sparse = model_config(moe=MoeConfig(num_experts=4, intermediate_size=8))
    check(sparse, 2, expert_parallel_degree=2)
    with pytest.raises(ConfigError, match=r"needs parallel\.enable_sequence_parallel=true"):
        check(sparse, 2, expert_parallel_degree=2, enable_sequence_parallel=False)
    with pytest.raises(ConfigError, match="does not divide experts"):
        check(sparse, 4, "2d")


def test_tiles_do_not_go_with_axes_that_divide_tokens() -> None:
    with pytest.raises(ConfigError, match="context_parallel_degree=2 does not go with"):
        check(EVEN, 4, "2d", context_parallel_degree=2)
