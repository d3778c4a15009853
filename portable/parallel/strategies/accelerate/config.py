"""Settings of accelerate."""

from __future__ import annotations

from dataclasses import dataclass

from portable.core.errors import ConfigError
from portable.parallel.config import StrategyConfig


@dataclass(kw_only=True, slots=True)
class AccelerateConfig(StrategyConfig):
    """Train inside ``accelerate.Accelerator``.

    ``plugin``: ``ddp``, torch's DistributedDataParallel, with ``bucket_mb`` and ``find_unused_parameters``;
    or ``fsdp2``, fully sharded, with ``reshard_after_forward``, where accelerate sees an accelerator.
    """

    name: str = "accelerate"
    plugin: str = "ddp"
    bucket_mb: int = 25
    find_unused_parameters: bool = False
    reshard_after_forward: bool = True

    def __post_init__(self) -> None:
        if self.plugin == "deepspeed":
            raise ConfigError(
                "strategy.plugin=deepspeed: accelerate would only hand the model on to DeepSpeed's engine; "
                "use strategy=deepspeed, which checks that engine itself, or strategy.plugin=ddp or fsdp2"
            )
        if self.plugin not in ("ddp", "fsdp2"):
            raise ConfigError(f"strategy.plugin={self.plugin}; use ddp or fsdp2")
        if self.bucket_mb < 1:
            raise ConfigError(f"strategy.bucket_mb={self.bucket_mb}; use 1 or more")
