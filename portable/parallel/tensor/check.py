"""What tensor parallelism asks of a model's sizes, checked before anything is built."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from portable.core.errors import ConfigError
from portable.model.config import ModelConfig
from portable.parallel.config import ParallelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFacts:
    """The sizes of a model that are divided. ``inner_sizes`` are those between columns and rows of all
    feed-forward layers, experts' included; ``num_kv_heads`` is ``num_heads`` where keys are made by head.
    """

    vocab_size: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    inner_sizes: tuple[int, ...]
    has_experts: bool = False


def tensor_facts(config: ModelConfig) -> TensorFacts:
    """Return what of a decoder is divided."""
    dense_layers = config.num_layers if config.moe is None else config.moe.first_dense_layers
    inner_sizes = {config.intermediate_size} if dense_layers else set[int]()
    if config.moe is not None:
        inner_sizes.add(config.moe.intermediate_size)
        if config.moe.num_shared_experts:
            inner_sizes.add(config.moe.num_shared_experts * config.moe.intermediate_size)
    return TensorFacts(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim if config.mla is None else config.mla.v_head_dim,
        inner_sizes=tuple(sorted(inner_sizes)),
        has_experts=config.moe is not None,
    )


def check_tensor(config: ParallelConfig, facts: TensorFacts) -> None:
    """Raise unless the degree fits the mode and divides the model.

    Raises: ConfigError with the legal values.
    """
    tp = config.tensor_parallel_degree
    if tp == 1:
        return
    if config.tensor_parallel_mode == "1d":
        _check_line(config, facts)
        return
    _check_alone(config, facts)
    if config.tensor_parallel_mode == "3d":
        _check_cube(tp, facts)
    else:
        _check_grid(config, facts)


def grid_side(config: ParallelConfig) -> int:
    """Return q of the d × q × q grid. Raises: ConfigError if the degree is no such product."""
    tp, depth = config.tensor_parallel_degree, config.tensor_parallel_depth
    if config.tensor_parallel_mode == "2d" and depth != 1:
        raise ConfigError(
            f"parallel.tensor_parallel_depth={depth} belongs to tensor_parallel_mode=2.5d; with 2d leave "
            "it at 1"
        )
    side = math.isqrt(tp // depth) if depth > 0 else 0
    if side < 2 or depth * side * side != tp:
        legal = [depth * q * q for q in range(2, 9)] if depth > 0 else []
        raise ConfigError(
            f"parallel.tensor_parallel_degree={tp} is no grid of {depth} × q × q ranks, as "
            f"tensor_parallel_mode={config.tensor_parallel_mode} with depth {depth} needs; use one of "
            f"{legal}, another parallel.tensor_parallel_depth, or tensor_parallel_mode=1d"
        )
    return side


def cube_side(tp: int) -> int:
    """Return l of the l × l × l cube. Raises: ConfigError if the degree is no cube."""
    side = round(tp ** (1 / 3))
    if side**3 != tp:
        raise ConfigError(
            f"parallel.tensor_parallel_degree={tp} is no cube l × l × l, as tensor_parallel_mode=3d needs; "
            f"use one of {[n**3 for n in range(2, 6)]}, or tensor_parallel_mode=1d"
        )
    return side


def _check_line(config: ParallelConfig, facts: TensorFacts) -> None:
    tp = config.tensor_parallel_degree

    def fits(n: int) -> bool:
        kv_fits = facts.num_kv_heads % n == 0 or n % facts.num_kv_heads == 0
        return facts.num_heads % n == 0 and kv_fits and all(_all_have(size, n) for size in facts.inner_sizes)

    if not fits(tp):
        raise ConfigError(
            f"parallel.tensor_parallel_degree={tp} does not divide a model of {facts.num_heads} heads, "
            f"{facts.num_kv_heads} key-value heads (which must divide it where they are fewer) and "
            f"feed-forward sizes {list(facts.inner_sizes)}; use one of {_legal(fits, facts.num_heads)}"
        )
    if config.expert_parallel_degree > 1 and not config.enable_sequence_parallel:
        raise ConfigError(
            f"parallel.expert_parallel_degree={config.expert_parallel_degree} with "
            f"tensor_parallel_degree={tp} needs parallel.enable_sequence_parallel=true: else tensor-parallel "
            "ranks would send the same tokens to the experts"
        )


def _all_have(size: int, count: int) -> bool:
    """Return whether ``torch.chunk`` gives each of ``count`` ranks a part."""
    return (count - 1) * -(-size // count) < size


def _check_alone(config: ParallelConfig, facts: TensorFacts) -> None:
    mode = config.tensor_parallel_mode
    for axis in ("context", "expert"):
        degree = getattr(config, f"{axis}_parallel_degree")
        if degree > 1:
            raise ConfigError(
                f"parallel.{axis}_parallel_degree={degree} does not go with tensor_parallel_mode={mode}, "
                f"which divides the rows of a batch; use 1, or tensor_parallel_mode=1d"
            )
    if facts.has_experts:
        raise ConfigError(
            f"parallel.tensor_parallel_mode={mode} does not divide experts; use tensor_parallel_mode=1d or "
            "expert_parallel_degree"
        )


def _check_grid(config: ParallelConfig, facts: TensorFacts) -> None:
    side = grid_side(config)
    sizes = _sizes(facts)
    if not _divides(side, sizes):
        raise ConfigError(
            f"parallel.tensor_parallel_degree={config.tensor_parallel_degree} makes a grid with sides of "
            f"{side}, which does not divide {_words(sizes)}; use sides of "
            f"{_legal(lambda n: _divides(n, sizes), facts.num_heads)}, i.e. a degree of depth × side², or "
            "tensor_parallel_mode=1d"
        )


def _check_cube(tp: int, facts: TensorFacts) -> None:
    side = cube_side(tp)
    heads = {name: size for name, size in _sizes(facts).items() if "heads" in name}
    matrices = {
        "hidden_size": facts.hidden_size,
        "num_heads × head_dim": facts.num_heads * facts.head_dim,
        **{f"feed-forward size {size}": size for size in facts.inner_sizes},
    }

    def fits(n: int) -> bool:
        return _divides(n, heads) and _divides(n * n, matrices)

    if not fits(side):
        raise ConfigError(
            f"parallel.tensor_parallel_degree={tp} makes a cube with sides of {side}, but {side} must divide "
            f"{_words(heads)}, and {side * side} must divide {_words(matrices)}; use a degree of "
            f"{[n**3 for n in _legal(fits, facts.num_heads)]}, or tensor_parallel_mode=1d"
        )


def _sizes(facts: TensorFacts) -> dict[str, int]:
    return {
        "num_heads": facts.num_heads,
        "num_kv_heads": facts.num_kv_heads,
        "hidden_size": facts.hidden_size,
        **{f"feed-forward size {size}": size for size in facts.inner_sizes},
    }


def _divides(n: int, sizes: dict[str, int]) -> bool:
    return all(size % n == 0 for size in sizes.values())


def _words(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name}={size}" if " " not in name else f"{name}" for name, size in sizes.items())


def _legal(fits: Callable[[int], bool], most: int) -> list[int]:
    return [n for n in range(1, most + 1) if fits(n)]
