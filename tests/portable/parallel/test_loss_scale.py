import pytest
import torch
from torch import nn

from portable.core.errors import ConfigError
from portable.device.protocol import Dtype
from portable.parallel.config import LossScaleConfig, PrecisionConfig
from portable.parallel.loss_scale import LossScale
from portable.parallel.placement import ParameterShard, Placement

FINE, OVERFLOW = torch.tensor(1.0), torch.tensor(float("inf"))


def make(dtype: Dtype = Dtype.fp16, **settings: float) -> LossScale:
    return LossScale(PrecisionConfig(compute_dtype=dtype, loss_scale=LossScaleConfig(**settings)))


def test_the_factor_falls_on_overflow_and_grows_after_good_steps():
    scale = make(initial=8.0, growth_interval=2, minimum=2.0)
    judged = [
        (scale.judge(norm), scale.factor) for norm in (OVERFLOW, FINE, FINE, OVERFLOW, OVERFLOW, OVERFLOW)
    ]
    assert judged == [(False, 4.0), (True, 4.0), (True, 8.0), (False, 4.0), (False, 2.0), (False, 2.0)]
    assert scale.read() == {"loss_scale": 2.0, "skipped_steps": 4.0}
    resumed = make()
    resumed.load_state_dict(scale.state_dict())
    assert resumed.read() == scale.read()


def test_an_overflow_at_the_smallest_factor_is_told():
    scale = make(initial=4.0, minimum=2.0)
    spent = []
    for norm in (OVERFLOW, OVERFLOW, FINE):
        scale.judge(norm)
        spent.append(scale.is_spent)
    assert spent == [False, True, False]


def test_gradients_are_divided_again():
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.full((3,), 32.0)
    make(initial=16.0).unscale([ParameterShard("x", parameter, Placement((3,)))])
    assert parameter.grad.tolist() == [2.0] * 3


def test_other_formats_need_none():
    scale = make(Dtype.bf16)
    assert scale.factor == 1.0
    assert scale.judge(OVERFLOW)  # a gradient that is not finite is the run's to complain of
    assert scale.read() == {}


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="0 < minimum <= initial"):
        LossScaleConfig(initial=1.0, minimum=2.0)
