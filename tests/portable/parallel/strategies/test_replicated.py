"""Strategies on one process; what several do is in test_ranks.py and in tests/contract."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from portable.collective.local import LocalGroup
from portable.core.errors import CapabilityError
from portable.device.protocol import Dtype
from portable.device.select import load_backend
from portable.parallel.config import PrecisionConfig, SingleConfig, ZeroConfig
from portable.parallel.layout import Layout
from portable.parallel.mesh import Mesh
from portable.parallel.strategies.native import NativeStrategy
from portable.parallel.strategies.replicated import SingleStrategy, ZeroStrategy

MIXED = PrecisionConfig(compute_dtype=Dtype.bf16)
NARROW = PrecisionConfig(param_dtype=Dtype.bf16, compute_dtype=Dtype.bf16)


def single(precision: PrecisionConfig | None = None) -> SingleStrategy:
    mesh = Mesh(Layout(), LocalGroup(), "cpu")
    return SingleStrategy(SingleConfig(), precision or PrecisionConfig(), mesh, load_backend("cpu").device())


def zero1() -> ZeroStrategy:
    mesh = Mesh(Layout(), LocalGroup(), "cpu")
    return ZeroStrategy(ZeroConfig(name="zero1"), MIXED, mesh, load_backend("cpu").device())


def train_once(strategy: NativeStrategy, model: nn.Module, x: torch.Tensor) -> None:
    strategy.accumulate(last=True)
    strategy.backward(model(x.to(model.weight.dtype)).float().sum())
    strategy.reduce_gradients()


def test_the_model_itself_is_trained():
    strategy, model = single(), nn.Linear(2, 2)
    strategy.wrap([model], {})
    assert strategy.modules == [model]
    assert [shard.parameter for shard in strategy.shards()] == list(model.parameters())


def test_parameters_take_the_configured_format_and_other_state_keeps_its_own():
    strategy, model = single(NARROW), nn.BatchNorm1d(2)
    strategy.wrap([model], {})
    assert model.weight.dtype is torch.bfloat16
    assert model.running_mean.dtype is torch.float32


def test_backward_and_clipping_work_on_plain_gradients():
    strategy, model = single(), nn.Linear(2, 1, bias=False)
    strategy.wrap([model], {})
    train_once(strategy, model, torch.tensor([3.0, 4.0]))
    assert float(strategy.clip_grad_norm(1.0)) == pytest.approx(5.0)
    assert float(model.weight.grad.norm()) == pytest.approx(1.0, rel=1e-5)


def test_one_rank_of_zero1_updates_a_wide_copy_of_what_computes():
    strategy, model = zero1(), nn.Linear(2, 1, bias=False)
    strategy.wrap([model], {})
    (shard,) = strategy.shards()
    train_once(strategy, model, torch.tensor([3.0, 4.0]))
    assert model.weight.grad is None
    assert shard.parameter.grad.tolist() == [[3.0, 4.0]]
    with torch.no_grad():
        shard.parameter.fill_(1.001)
    strategy.publish()
    assert model.weight.dtype is torch.bfloat16
    assert model.weight.tolist() == [[1.0, 1.0]]
    assert float(shard.parameter.detach()[0, 0]) == pytest.approx(1.001)


def test_an_optimiser_is_missed_before_it_is_attached():
    strategy = single()
    strategy.wrap([nn.Linear(2, 2)], {})
    with pytest.raises(CapabilityError, match=r"strategy=single has no optimiser yet; call attach\(\) first"):
        strategy.step()


def test_a_model_is_freed_with_its_strategy():
    strategy, model = zero1(), nn.Linear(2, 1, bias=False)
    strategy.wrap([model], {})
    train_once(strategy, model, torch.tensor([3.0, 4.0]))
    weight = weakref.ref(model.weight)
    del strategy, model
    gc.collect()
    assert weight() is None
