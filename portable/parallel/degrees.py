"""From settings to a layout: how the ranks that other axes leave become replicas and shards."""

from portable.core.errors import ConfigError
from portable.parallel.config import ParallelConfig
from portable.parallel.layout import Layout

# Which data-parallel axes a strategy uses; the first takes the ranks that are left.
_USES = {
    "single": (),
    "ddp": ("dp",),
    "zero1": ("fsdp", "dp"),
    "zero2": ("fsdp", "dp"),
    "zero3": ("fsdp", "dp"),
    "fsdp": ("fsdp", "dp"),
    "hsdp": ("fsdp", "dp"),
}
_FIELDS = {"dp": "data_parallel_replicate_degree", "fsdp": "data_parallel_shard_degree"}


def make_layout(config: ParallelConfig, strategy: str, world_size: int) -> Layout:
    """Return the layout of ``world_size`` ranks. A strategy that is not ours divides its ranks by itself, and
    is given them as replicas.

    Raises: ConfigError, with the legal values, if the degrees do not multiply to ``world_size``.
    """
    pp, cp, tp = (
        config.pipeline_parallel_degree,
        config.context_parallel_degree,
        config.tensor_parallel_degree,
    )
    model = pp * cp * tp
    if world_size % model:
        legal = [n for n in range(1, world_size + 1) if world_size % n == 0]
        raise ConfigError(
            f"pipeline × context × tensor parallel degrees = {pp} × {cp} × {tp} = {model} do not divide the "
            f"{world_size} processes; their product must be one of {legal}, or start a multiple of {model} "
            "processes"
        )
    data = _data_degrees(config, strategy, world_size // model)
    return Layout(pp=pp, cp=cp, tp=tp, ep=config.expert_parallel_degree, **data)


def _data_degrees(config: ParallelConfig, strategy: str, ranks: int) -> dict[str, int]:
    uses = _USES.get(strategy, ("dp",))
    asked = {"dp": config.data_parallel_replicate_degree, "fsdp": config.data_parallel_shard_degree}
    for axis, degree in asked.items():
        if degree > 1 and axis not in uses:
            raise ConfigError(
                f"parallel.{_FIELDS[axis]}={degree} means nothing to strategy={strategy}; leave it at -1, or "
                f"use {'strategy=fsdp, hsdp, zero1 or zero2' if axis == 'fsdp' else 'strategy=ddp or hsdp'}"
            )
    if not uses:
        if ranks > 1:
            raise ConfigError(
                f"strategy=single leaves {ranks} processes to train {ranks} models that never meet; use "
                "strategy=ddp or strategy=fsdp, raise a degree of parallel.*, or start fewer processes"
            )
        return {}
    degrees = {axis: max(asked[axis], 1) for axis in uses}
    fixed = [axis for axis in uses if asked[axis] > 0]
    taker = next((axis for axis in uses if asked[axis] < 0), None)
    given = 1
    for axis in fixed:
        given *= degrees[axis]
    if taker is not None and ranks % given == 0:
        degrees[taker] = ranks // given
    elif given != ranks:
        legal = [n for n in range(1, ranks + 1) if ranks % n == 0]
        words = " × ".join(f"parallel.{_FIELDS[axis]}={degrees[axis]}" for axis in fixed)
        raise ConfigError(
            f"{words} does not fill the {ranks} processes that the other axes leave; use one of {legal}"
        )
    if strategy == "hsdp" and min(degrees.values()) < 2:
        raise ConfigError(
            f"strategy=hsdp shards over {degrees['fsdp']} ranks and replicates over {degrees['dp']}, and "
            "both must be 2 or more; set parallel.data_parallel_replicate_degree, or use strategy=fsdp"
        )
    return degrees
