"""Settings of the layout, of strategies and of number formats."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from portable.core.errors import ConfigError
from portable.device.protocol import Dtype


@dataclass(kw_only=True, slots=True)
class RecomputeConfig:
    """What blocks compute anew in the backward pass, and so need not keep.

    ``mode``: ``none``; ``full``, all but their input; ``selective``, all but the results of matmuls and
    attention; ``budget``, what fits least into the fraction ``budget`` of what a block keeps by itself. Of
    ``every`` so many blocks, the first does so, and of those the first ``num_layers`` of a stage (0: all).
    """

    mode: str = "none"
    every: int = 1
    num_layers: int = 0
    budget: float = 0.5

    def __post_init__(self) -> None:
        _check_word("recompute.mode", self.mode, ("none", "full", "selective", "budget"))
        if self.every < 1:
            raise ConfigError(f"parallel.recompute.every={self.every}; use 1 (all blocks) or more")
        if self.num_layers < 0:
            raise ConfigError(f"parallel.recompute.num_layers={self.num_layers}; use 0 (all) or more")
        if not 0.0 <= self.budget <= 1.0:
            raise ConfigError(
                f"parallel.recompute.budget={self.budget}; use a fraction, 0 (keep the input only) to 1"
            )


@dataclass(kw_only=True, slots=True)
class TileConfig:
    """Parts that layers are computed in, one after the other, so that one part's memory suffices:
    ``mlp_chunks`` divides the rows (tokens) that pass through a feed-forward layer. Linear layers of blocks
    whose weights take more than ``linear_mb`` MiB (0: none) use them in tiles of at most that.
    """

    mlp_chunks: int = 1
    linear_mb: float = 0.0

    def __post_init__(self) -> None:
        if self.mlp_chunks < 1:
            raise ConfigError(f"parallel.tile.mlp_chunks={self.mlp_chunks}; use 1 (whole) or more")
        if self.linear_mb < 0:
            raise ConfigError(f"parallel.tile.linear_mb={self.linear_mb}; use 0 (whole), or MiB of a tile")


@dataclass(kw_only=True, slots=True)
class CompileConfig:
    """Whether the device's compiler compiles every block."""

    enable: bool = False


@dataclass(kw_only=True, slots=True)
class ParallelConfig:
    """How many ranks stand along each axis, by torchtitan's names; Megatron's and DeepSpeed's are aliases.

    Data-parallel degrees of -1 take the ranks that the other axes leave, as the strategy divides them.
    ``tensor_parallel_mode``: 1d (columns and rows), 2d (SUMMA), 2.5d, 3d; ``tensor_parallel_depth`` is the
    depth of 2.5d. ``context_parallel_method``: ring, ulysses, or hybrid, whose inner all-to-all spans
    ``context_parallel_ulysses_degree`` ranks. ``pipeline_parallel_layers_per_stage`` names the blocks of
    every stage in order (empty: as even as can be); ``pipeline_parallel_schedule_csv`` is a file with a row
    of actions for every rank, which replaces ``pipeline_parallel_schedule``.
    """

    data_parallel_replicate_degree: int = -1
    data_parallel_shard_degree: int = -1
    tensor_parallel_degree: int = 1
    tensor_parallel_mode: str = "1d"
    tensor_parallel_depth: int = 1
    enable_sequence_parallel: bool = True
    context_parallel_degree: int = 1
    context_parallel_method: str = "ring"
    context_parallel_ulysses_degree: int = 1
    context_parallel_load_balancer: str = "headtail"
    pipeline_parallel_degree: int = 1
    pipeline_parallel_schedule: str = "1F1B"
    pipeline_parallel_schedule_csv: str = ""
    pipeline_parallel_stages_per_rank: int = 0  # 0: what the schedule needs, 1 or 2
    pipeline_parallel_layers_per_stage: list[int] = field(default_factory=list)
    expert_parallel_degree: int = 1
    recompute: RecomputeConfig = field(default_factory=RecomputeConfig)
    tile: TileConfig = field(default_factory=TileConfig)
    compile: CompileConfig = field(default_factory=CompileConfig)

    def __post_init__(self) -> None:
        for name in ("data_parallel_replicate_degree", "data_parallel_shard_degree"):
            if getattr(self, name) < 1 and getattr(self, name) != -1:
                raise ConfigError(
                    f"parallel.{name}={getattr(self, name)}; use -1 (what is left) or 1 and more"
                )
        for axis in ("tensor", "context", "pipeline", "expert"):
            name = f"{axis}_parallel_degree"
            if getattr(self, name) < 1:
                raise ConfigError(f"parallel.{name}={getattr(self, name)}; use 1 (off) or more")
        words = {
            "tensor_parallel_mode": ("1d", "2d", "2.5d", "3d"),
            "context_parallel_method": ("ring", "ulysses", "hybrid"),
            "context_parallel_load_balancer": ("headtail", "none"),
        }
        for name, legal in words.items():
            _check_word(name, getattr(self, name), legal)


@dataclass(kw_only=True, slots=True)
class StrategyConfig:
    """What every strategy has: the name it is registered under."""

    name: str = MISSING


@dataclass(kw_only=True, slots=True)
class SingleConfig(StrategyConfig):
    """No data parallelism: every sample is read by one process, or by one group of model-parallel ones."""

    name: str = "single"


@dataclass(kw_only=True, slots=True)
class DdpConfig(StrategyConfig):
    """Replicate the model; sum gradients."""

    name: str = "ddp"
    bucket_mb: int = 25


@dataclass(kw_only=True, slots=True)
class ZeroConfig(StrategyConfig):
    """Replicate parameters; divide optimiser state (``zero1``), and gradients too (``zero2``)."""

    name: str = MISSING
    bucket_mb: int = 25


@dataclass(kw_only=True, slots=True)
class FsdpConfig(StrategyConfig):
    """Shard parameters, gradients, optimiser state (FSDP2, ZeRO-3); ``hsdp`` has replicas of shards."""

    name: str = "fsdp"
    reshard_after_forward: bool = True
    num_prefetch_blocks: int = 1  # gathered ahead of the one that computes


@dataclass(kw_only=True, slots=True)
class Float8Config:
    """Matmuls of linear layers in 8 bits, with scales of the moment.

    ``recipe``: ``none``; ``tensorwise``, one scale a matrix; ``rowwise``, one for every row and column. With
    ``emulate`` a device without such matmuls rounds as they would, and computes in its own format. Modules
    whose names end in a word of ``exclude`` stay as they are.
    """

    recipe: str = "none"
    emulate: bool = False
    exclude: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.recipe not in ("none", "tensorwise", "rowwise"):
            raise ConfigError(f"precision.float8.recipe={self.recipe}; use one of none, tensorwise, rowwise")


@dataclass(kw_only=True, slots=True)
class LossScaleConfig:
    """The factor that lifts fp16 gradients out of the reach of underflow: halved when a step overflows, which
    is left out then, and doubled after ``growth_interval`` good steps.

    Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3.2.
    """

    initial: float = 65536.0
    growth_interval: int = 2000
    minimum: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.minimum <= self.initial or self.growth_interval < 1:
            raise ConfigError(
                f"precision.loss_scale.initial={self.initial}, minimum={self.minimum}, growth_interval="
                f"{self.growth_interval}; use 0 < minimum <= initial, and an interval of 1 or more"
            )


@dataclass(kw_only=True, slots=True)
class PrecisionConfig:
    """Number formats: parameters are kept in ``param_dtype``, matmuls run in ``compute_dtype``, gradients add
    up in ``reduce_dtype``. ``float8`` narrows matmuls of linear layers further; ``loss_scale`` is for fp16.
    """

    name: str = "fp32"
    param_dtype: Dtype = Dtype.fp32
    compute_dtype: Dtype = Dtype.fp32
    reduce_dtype: Dtype = Dtype.fp32
    float8: Float8Config = field(default_factory=Float8Config)
    loss_scale: LossScaleConfig = field(default_factory=LossScaleConfig)

    def __post_init__(self) -> None:
        if self.param_dtype is not Dtype.fp32 and self.compute_dtype is Dtype.fp32:
            raise ConfigError(
                f"precision.param_dtype={self.param_dtype.name} with compute_dtype=fp32 loses precision for "
                f"nothing; use compute_dtype={self.param_dtype.name} or param_dtype=fp32"
            )


@dataclass(kw_only=True, slots=True)
class CommunicatorConfig:
    """What carries tensors between devices, and how long a rank may be silent.

    With ``check_calls`` the ranks compare each collective before they begin it, so that one that is out of
    step is named at once; it costs one small message over the host, see ``docs/benchmarks.md``.
    """

    name: str = MISSING
    timeout_s: float = 600.0
    check_calls: bool = True


def _check_word(name: str, word: str, legal: tuple[str, ...]) -> None:
    if word not in legal:
        raise ConfigError(f"parallel.{name}={word}; use one of {', '.join(legal)}")
