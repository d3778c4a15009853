"""Settings of the inference engines."""

from dataclasses import dataclass

from omegaconf import MISSING

from portable.core.errors import ConfigError


def _require_positive(field: str, value: object) -> None:
    if isinstance(value, int) and value < 1:
        raise ConfigError(f"engine.{field}={value}; use a positive number")


def _require_device_share(tensor_parallel_size: object, memory_fraction: object) -> None:
    _require_positive("tensor_parallel_size", tensor_parallel_size)
    if isinstance(memory_fraction, float) and not 0 < memory_fraction < 1:
        raise ConfigError(f"engine.memory_fraction={memory_fraction}; use more than 0 and less than 1")


@dataclass(kw_only=True, slots=True)
class EngineConfig:
    """What every engine has: the name it is registered under."""

    name: str = MISSING
    max_batch_size: int = 64

    def __post_init__(self) -> None:
        _require_positive("max_batch_size", self.max_batch_size)


@dataclass(kw_only=True, slots=True)
class NativeEngineConfig(EngineConfig):
    """Our own engine.

    ``max_prefill_tokens`` bounds the prompt tokens of one pass (a single longer prompt goes alone);
    ``max_cache_tokens`` bounds slots times the longest sequence: further requests wait for room.
    """

    name: str = "native"
    max_prefill_tokens: int = 8192
    max_cache_tokens: int = 262_144

    def __post_init__(self) -> None:
        EngineConfig.__post_init__(self)
        _require_positive("max_prefill_tokens", self.max_prefill_tokens)
        _require_positive("max_cache_tokens", self.max_cache_tokens)


@dataclass(kw_only=True, slots=True)
class HfEngineConfig(EngineConfig):
    """transformers' ``generate``: any architecture it knows."""

    name: str = "hf"


@dataclass(kw_only=True, slots=True)
class VllmEngineConfig(EngineConfig):
    """vLLM in this process; ``tensor_parallel_size`` devices."""

    name: str = "vllm"
    tensor_parallel_size: int = 1
    memory_fraction: float = 0.9

    def __post_init__(self) -> None:
        EngineConfig.__post_init__(self)
        _require_device_share(self.tensor_parallel_size, self.memory_fraction)


@dataclass(kw_only=True, slots=True)
class LmdeployEngineConfig(EngineConfig):
    """LMDeploy in this process; ``tensor_parallel_size`` devices."""

    name: str = "lmdeploy"
    tensor_parallel_size: int = 1
    memory_fraction: float = 0.8

    def __post_init__(self) -> None:
        EngineConfig.__post_init__(self)
        _require_device_share(self.tensor_parallel_size, self.memory_fraction)
