"""Engine settings: bounds, and tolerance of a config that is still being composed."""

import pytest

from portable.core.errors import ConfigError
from portable.engine.config import (
    HfEngineConfig,
    LmdeployEngineConfig,
    NativeEngineConfig,
    VllmEngineConfig,
)

CLASSES = {
    "native": NativeEngineConfig,
    "hf": HfEngineConfig,
    "vllm": VllmEngineConfig,
    "lmdeploy": LmdeployEngineConfig,
}


@pytest.mark.parametrize("name", CLASSES)
def test_each_config_carries_its_registered_name(name: str) -> None:
    assert CLASSES[name]().name == name


@pytest.mark.parametrize("name", CLASSES)
def test_batch_size_must_be_positive(name: str) -> None:
    with pytest.raises(ConfigError, match=r"engine.max_batch_size=0; use a positive number"):
        CLASSES[name](max_batch_size=0)


@pytest.mark.parametrize("field", ["max_prefill_tokens", "max_cache_tokens"])
def test_native_budgets_must_be_positive(field: str) -> None:
    with pytest.raises(ConfigError, match=rf"engine.{field}=-1"):
        NativeEngineConfig(**{field: -1})


@pytest.mark.parametrize("name", ["vllm", "lmdeploy"])
@pytest.mark.parametrize("fraction", [0.0, 1.0, 1.5])
def test_memory_fraction_lies_between_zero_and_one(name: str, fraction: float) -> None:
    with pytest.raises(ConfigError, match=rf"engine.memory_fraction={fraction}"):
        CLASSES[name](memory_fraction=fraction)


@pytest.mark.parametrize("name", ["vllm", "lmdeploy"])
def test_tensor_parallel_size_must_be_positive(name: str) -> None:
    with pytest.raises(ConfigError, match=r"engine.tensor_parallel_size=0"):
        CLASSES[name](tensor_parallel_size=0)


def test_a_field_that_is_not_composed_yet_is_let_pass() -> None:
    assert NativeEngineConfig(max_batch_size="???").max_batch_size == "???"  # pyright: ignore[reportArgumentType]
