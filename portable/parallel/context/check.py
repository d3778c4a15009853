"""What context parallelism asks of the settings and of the heads."""

from portable.core.errors import ConfigError
from portable.parallel.config import ParallelConfig


def ulysses_degree(config: ParallelConfig) -> int:
    """Return over how many ranks heads are traded for tokens; a ring joins what is left of the axis."""
    return {
        "ring": 1,
        "ulysses": config.context_parallel_degree,
        "hybrid": config.context_parallel_ulysses_degree,
    }[config.context_parallel_method]


def check_context(config: ParallelConfig, num_heads: int, num_kv_heads: int) -> None:
    """Check the settings against a model's heads, of which tensor parallelism leaves each rank a part.

    Raises: ConfigError, with what would work.
    """
    degree, method = config.context_parallel_degree, config.context_parallel_method
    _check_degrees(config)
    if degree == 1 or method == "ring":
        return
    tp = config.tensor_parallel_degree
    heads, kv_heads = num_heads // tp, max(1, num_kv_heads // tp)
    asked = ulysses_degree(config)
    legal = [
        ranks
        for ranks in _divisors(degree)
        if ranks > 1 and heads % ranks == 0 and (kv_heads % ranks == 0 or ranks % kv_heads == 0)
    ]
    if asked not in legal:
        field = "context_parallel_degree" if method == "ulysses" else "context_parallel_ulysses_degree"
        inner = [ranks for ranks in legal if ranks < degree]
        raise ConfigError(
            f"parallel.{field}={asked} cannot divide the {heads} query heads and {kv_heads} key-value heads "
            f"that a rank has (tensor_parallel_degree={tp}): it must divide the former, and the latter or be "
            "a multiple of them; use context_parallel_method=ring"
            + (f", or hybrid with context_parallel_ulysses_degree={_any_of(inner)}" if inner else "")
        )


def _check_degrees(config: ParallelConfig) -> None:
    degree, method = config.context_parallel_degree, config.context_parallel_method
    inner = config.context_parallel_ulysses_degree
    field = f"parallel.context_parallel_ulysses_degree={inner}"
    if method != "hybrid" and inner not in (1, ulysses_degree(config)):
        raise ConfigError(
            f"{field} means nothing to context_parallel_method={method}; leave it at 1, or use hybrid"
        )
    legal = [ranks for ranks in _divisors(degree) if 1 < ranks < degree]
    if method == "hybrid" and degree > 1 and inner not in legal:
        works = f"use {_any_of(legal)}" if legal else "use context_parallel_method=ring or ulysses"
        raise ConfigError(
            f"{field} with context_parallel_degree={degree} leaves no ring of all-to-all groups; {works}"
        )


def _any_of(numbers: list[int]) -> str:
    return " or ".join(map(str, numbers))


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
