"""What expert parallelism asks of a model and of the other axes."""

from __future__ import annotations

from portable.core.errors import ConfigError
from portable.parallel.config import ParallelConfig

_FIELD = "parallel.expert_parallel_degree"


def check_expert(config: ParallelConfig, num_experts: int) -> None:
    """Check a model of ``num_experts`` experts a layer (0: it has none).

    Raises: ConfigError, with what would work.
    """
    degree = config.expert_parallel_degree
    if degree == 1:
        return
    if num_experts == 0:
        raise ConfigError(f"{_FIELD}={degree}, but the model has no experts; use 1")
    legal = legal_degrees(num_experts)
    if degree not in legal:
        raise ConfigError(
            f"{_FIELD}={degree} leaves a rank without any of the {num_experts} experts, of which each takes "
            f"{-(-num_experts // degree)}; use one of {legal}"
        )
    tensor = config.tensor_parallel_degree
    if tensor > 1 and config.tensor_parallel_mode != "1d":
        raise ConfigError(
            f"{_FIELD}={degree} with parallel.tensor_parallel_mode={config.tensor_parallel_mode}: the grid "
            "cuts hidden states, and an expert needs them whole; use tensor_parallel_mode=1d"
        )
    if tensor > 1 and not config.enable_sequence_parallel:
        raise ConfigError(
            f"{_FIELD}={degree} with parallel.tensor_parallel_degree={tensor} and "
            "enable_sequence_parallel=false: every tensor-parallel rank would send the same tokens; "
            "use enable_sequence_parallel=true"
        )


def legal_degrees(num_experts: int) -> list[int]:
    """Return over how many ranks the experts can be divided, each getting one or more."""
    return [
        ranks for ranks in range(1, num_experts + 1) if -(-num_experts // ranks) * (ranks - 1) < num_experts
    ]
