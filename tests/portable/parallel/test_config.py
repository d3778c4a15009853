import pytest

from portable.core.errors import ConfigError
from portable.device.protocol import Dtype
from portable.parallel.config import CommunicatorConfig, DdpConfig, FsdpConfig, PrecisionConfig, SingleConfig


def test_each_strategy_knows_its_registered_name():
    assert [config.name for config in (SingleConfig(), DdpConfig(), FsdpConfig())] == [
        "single",
        "ddp",
        "fsdp",
    ]


def test_narrow_weights_with_wide_matmuls_are_refused():
    with pytest.raises(
        ConfigError, match=r"precision.param_dtype=bf16 .* use compute_dtype=bf16 or param_dtype=fp32"
    ):
        PrecisionConfig(param_dtype=Dtype.bf16)


def test_wide_weights_with_narrow_matmuls_are_the_usual_mix():
    mixed = PrecisionConfig(compute_dtype=Dtype.bf16)
    assert mixed.param_dtype is mixed.reduce_dtype is Dtype.fp32


def test_ranks_may_be_silent_for_ten_minutes():
    assert CommunicatorConfig(name="gloo").timeout_s == 600.0
