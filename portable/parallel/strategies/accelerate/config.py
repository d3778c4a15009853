"""Settings of accelerate."""

from __future__ import annotations

from dataclasses import dataclass

from portable.core.errors import ConfigError
from portable.parallel.config import StrategyConfig
from portable.parallel.strategies.deepspeed.config import DeepspeedConfig


@dataclass(kw_only=True, slots=True)
class AccelerateConfig(StrategyConfig):
    """Train inside ``accelerate.Accelerator``.

    ``plugin``: ``ddp``, torch's DistributedDataParallel, with ``bucket_mb`` and ``find_unused_parameters``;
    ``fsdp2``, fully sharded, with ``reshard_after_forward``, where accelerate sees an accelerator; or
    ``deepspeed``, DeepSpeed's engine at ``stage`` 0 to 3 with ``bucket_mb`` (``strategy=deepspeed`` has all
    its settings).
    """

    name: str = "accelerate"
    plugin: str = "ddp"
    bucket_mb: int = 25
    find_unused_parameters: bool = False
    reshard_after_forward: bool = True
    stage: int = 2

    def __post_init__(self) -> None:
        if self.plugin not in ("ddp", "fsdp2", "deepspeed"):
            raise ConfigError(f"strategy.plugin={self.plugin}; use ddp, fsdp2 or deepspeed")
        if self.stage not in range(4):
            raise ConfigError(f"strategy.stage={self.stage}; use 0, 1, 2 or 3")
        if self.bucket_mb < 1:
            raise ConfigError(f"strategy.bucket_mb={self.bucket_mb}; use 1 or more")

    def engine_settings(self) -> DeepspeedConfig:
        """Return what the plugin ``deepspeed`` is, in the engine's own words."""
        bucket_numel = self.bucket_mb * 2**20 // 4
        return DeepspeedConfig(
            name=self.name,
            stage=self.stage,
            reduce_bucket_size=bucket_numel,
            allgather_bucket_size=bucket_numel,
        )
