import pytest
import torch
from torch import nn

from portable.collective.local import LocalGroup
from portable.core.errors import ConfigError
from portable.device.protocol import Dtype
from portable.device.select import load_backend
from portable.parallel.config import PrecisionConfig, SingleConfig
from portable.parallel.strategies.single import SingleStrategy


class Pair(LocalGroup):
    size = 2


def single(group: LocalGroup, precision: PrecisionConfig | None = None) -> SingleStrategy:
    return SingleStrategy(SingleConfig(), precision or PrecisionConfig(), group, load_backend("cpu").device())


def test_two_processes_are_refused():
    with pytest.raises(ConfigError, match="use strategy=ddp or strategy=fsdp, or start one process"):
        single(Pair())


def test_the_model_itself_is_trained():
    model = nn.Linear(2, 2)
    assert single(LocalGroup()).wrap(model) is model


def test_parameters_take_the_configured_format():
    narrow = PrecisionConfig(param_dtype=Dtype.bf16, compute_dtype=Dtype.bf16)
    assert single(LocalGroup(), narrow).wrap(nn.Linear(2, 2)).weight.dtype is torch.bfloat16


def test_backward_and_clipping_work_on_plain_gradients():
    strategy, model = single(LocalGroup()), nn.Linear(2, 1, bias=False)
    strategy.accumulate(model, last=True)
    strategy.backward(model(torch.tensor([3.0, 4.0])).sum())
    assert float(strategy.clip_grad_norm(model, 1.0)) == pytest.approx(5.0)
    assert float(model.weight.grad.norm()) == pytest.approx(1.0, rel=1e-5)


def test_weights_come_whole_to_the_host():
    model = nn.Linear(2, 2)
    assert torch.equal(single(LocalGroup()).full_state_dict(model)["weight"], model.weight.detach())
