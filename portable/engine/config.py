"""Settings of the inference engines."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from portable.core.errors import ConfigError
from portable.core.text import parse_bytes


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
class MaxMemoryConfig:
    """What weights may take, e.g. ``20GiB``, on the device and of the host. Empty: most of what is free."""

    device: str = ""
    host: str = ""

    def __post_init__(self) -> None:
        for name, text in (("device", self.device), ("host", self.host)):
            if text and parse_bytes(text) is None:
                raise ConfigError(f"engine.max_memory.{name}={text}; write a size such as 512MiB or 20GiB")


@dataclass(kw_only=True, slots=True)
class HfEngineConfig(EngineConfig):
    """transformers' ``generate``: any architecture it knows.

    ``device_map``: ``none`` keeps the model on the device; ``auto`` fills the device up to ``max_memory``,
    then the host's memory, then a disk, if ``offload_folder`` names a folder.
    """

    name: str = "hf"
    device_map: str = "none"
    max_memory: MaxMemoryConfig = field(default_factory=MaxMemoryConfig)
    offload_folder: str = ""

    def __post_init__(self) -> None:
        EngineConfig.__post_init__(self)
        if self.device_map not in ("none", "auto", MISSING):
            raise ConfigError(f"engine.device_map={self.device_map}; use none or auto")
        if self.device_map == "none" and (self.offload_folder or self.max_memory != MaxMemoryConfig()):
            raise ConfigError(
                "engine.max_memory and engine.offload_folder say how a model is spread, but "
                "engine.device_map=none keeps it on the device; use engine.device_map=auto"
            )


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
