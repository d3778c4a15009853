"""Settings of the inference engines."""

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass(kw_only=True, slots=True)
class EngineConfig:
    """What every engine has: the name it is registered under."""

    name: str = MISSING
    max_batch_size: int = 64


@dataclass(kw_only=True, slots=True)
class NativeEngineConfig(EngineConfig):
    """Our own engine."""

    name: str = "native"


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


@dataclass(kw_only=True, slots=True)
class LmdeployEngineConfig(EngineConfig):
    """LMDeploy in this process; ``tensor_parallel_size`` devices."""

    name: str = "lmdeploy"
    tensor_parallel_size: int = 1
    memory_fraction: float = 0.8
