"""Settings of DeepSpeed's engine, in the names of its JSON."""

from __future__ import annotations

from dataclasses import dataclass, field

from portable.core.errors import ConfigError
from portable.parallel.config import StrategyConfig

_DEVICES = ("none", "cpu", "nvme")


@dataclass(kw_only=True, slots=True)
class OffloadOptimizerConfig:
    """Where the optimiser's state lives, and with it float32 weights; it is updated on the host unless
    ``device`` is none. ``nvme_path`` is a folder on a fast disk.
    """

    device: str = "none"
    nvme_path: str = ""
    buffer_count: int = 4
    pin_memory: bool = True
    pipeline_read: bool = False
    pipeline_write: bool = False
    fast_init: bool = False
    ratio: float = 1.0

    def __post_init__(self) -> None:
        _check_place("offload_optimizer", self.device, self.nvme_path)


@dataclass(kw_only=True, slots=True)
class OffloadParamConfig:
    """Where the shards of parameters live between uses (stage 3). Sizes are in elements."""

    device: str = "none"
    nvme_path: str = ""
    buffer_count: int = 5
    buffer_size: int = 100_000_000
    max_in_cpu: int = 1_000_000_000
    pin_memory: bool = True

    def __post_init__(self) -> None:
        _check_place("offload_param", self.device, self.nvme_path)


@dataclass(kw_only=True, slots=True)
class AioConfig:
    """How files on a disk are read and written; ``block_size`` in bytes."""

    block_size: int = 1_048_576
    queue_depth: int = 8
    intra_op_parallelism: int = 1
    single_submit: bool = False
    overlap_events: bool = True
    use_gds: bool = False


@dataclass(kw_only=True, slots=True)
class DeepspeedConfig(StrategyConfig):
    """Let DeepSpeed divide what ``stage`` says: 0 nothing, 1 optimiser state, 2 gradients too, 3 parameters
    too. Sizes and thresholds are in elements.

    ``config_file`` is a DeepSpeed JSON: what it says of ``zero_optimization`` and ``aio`` replaces the
    settings here, and what it says of the rest of the run must be what the run does.
    """

    name: str = "deepspeed"
    config_file: str = ""
    stage: int = 2
    offload_optimizer: OffloadOptimizerConfig = field(default_factory=OffloadOptimizerConfig)
    offload_param: OffloadParamConfig = field(default_factory=OffloadParamConfig)
    aio: AioConfig = field(default_factory=AioConfig)
    reduce_bucket_size: int = 500_000_000
    allgather_bucket_size: int = 500_000_000
    reduce_scatter: bool = True
    overlap_comm: bool | None = None  # None: at stage 3 only
    contiguous_gradients: bool = True
    use_multi_rank_bucket_allreduce: bool = True
    round_robin_gradients: bool = False
    sub_group_size: int = 1_000_000_000
    stage3_prefetch_bucket_size: int = 50_000_000
    stage3_param_persistence_threshold: int = 100_000
    stage3_max_live_parameters: int = 1_000_000_000
    stage3_max_reuse_distance: int = 1_000_000_000
    stage3_module_granularity_threshold: int = 0
    zero_hpz_partition_size: int = 1
    zero_quantized_weights: bool = False
    zero_quantized_gradients: bool = False

    def __post_init__(self) -> None:
        if self.stage not in range(4):
            raise ConfigError(f"strategy.stage={self.stage}; use 0, 1, 2 or 3")
        if self.offload_param.device != "none" and self.stage != 3:
            raise ConfigError(
                f"strategy.offload_param.device={self.offload_param.device} moves divided parameters, which "
                f"stage {self.stage} does not have; use strategy.stage=3, or strategy.offload_optimizer"
            )
        if self.offload_optimizer.device == "nvme" and self.stage != 3:
            raise ConfigError(
                "strategy.offload_optimizer.device=nvme is built on divided parameters; use "
                "strategy.stage=3, or device=cpu"
            )
        if self.offload_optimizer.device != "none" and self.stage == 0:
            raise ConfigError(
                f"strategy.offload_optimizer.device={self.offload_optimizer.device} needs divided optimiser "
                "state; use strategy.stage=1, 2 or 3"
            )
        if self.offload_optimizer.ratio != 1.0:
            raise ConfigError(
                f"strategy.offload_optimizer.ratio={self.offload_optimizer.ratio} steps a part of the "
                "weights elsewhere by another optimiser, which checkpoints here do not know; use 1.0"
            )
        if self.zero_hpz_partition_size > 1 and self.stage != 3:
            raise ConfigError(
                f"strategy.zero_hpz_partition_size={self.zero_hpz_partition_size} keeps second copies of "
                "divided parameters; use strategy.stage=3"
            )


def _check_place(field_name: str, device: str, nvme_path: str) -> None:
    if device not in _DEVICES:
        raise ConfigError(f"strategy.{field_name}.device={device}; use one of {', '.join(_DEVICES)}")
    if device == "nvme" and not nvme_path:
        raise ConfigError(
            f"strategy.{field_name}.device=nvme needs strategy.{field_name}.nvme_path=FOLDER on a fast disk"
        )
