"""Settings of strategies and of number formats."""

from dataclasses import dataclass

from omegaconf import MISSING

from portable.core.errors import ConfigError
from portable.device.protocol import Dtype


@dataclass(kw_only=True, slots=True)
class StrategyConfig:
    """What every strategy has: the name it is registered under."""

    name: str = MISSING


@dataclass(kw_only=True, slots=True)
class SingleConfig(StrategyConfig):
    """One process, one device."""

    name: str = "single"


@dataclass(kw_only=True, slots=True)
class DdpConfig(StrategyConfig):
    """Replicate the model; average gradients."""

    name: str = "ddp"
    bucket_mb: int = 25


@dataclass(kw_only=True, slots=True)
class FsdpConfig(StrategyConfig):
    """Shard parameters, gradients and optimiser state over all ranks (FSDP2, ZeRO-3)."""

    name: str = "fsdp"
    reshard_after_forward: bool = True


@dataclass(kw_only=True, slots=True)
class PrecisionConfig:
    """Number formats: parameters are kept in ``param_dtype``, matmuls run in ``compute_dtype``, gradients add
    up in ``reduce_dtype``.
    """

    name: str = "fp32"
    param_dtype: Dtype = Dtype.fp32
    compute_dtype: Dtype = Dtype.fp32
    reduce_dtype: Dtype = Dtype.fp32

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
