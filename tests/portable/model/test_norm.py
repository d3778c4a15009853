"""The norm layers hold their weight and the kernel that was picked for it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from portable.kernel.config import KernelConfig
from portable.kernel.registry import KernelSet
from portable.model.norm import AddRmsNorm, RmsNorm

EPS = 1e-5


@pytest.fixture(params=["reference", "native"])
def row(request: pytest.FixtureRequest) -> KernelSet:
    return KernelSet("cpu", "fp32", KernelConfig(rows={"rms_norm": request.param}))


def normed_by_hand(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    x = x.double()
    return x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * weight.double()


def test_a_new_layer_only_normalises(row: KernelSet):
    x = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))
    out = RmsNorm(16, EPS, row)(x)
    torch.testing.assert_close(out.double(), normed_by_hand(x, torch.ones(16)), rtol=1e-6, atol=1e-6)


def test_the_sum_comes_back_beside_its_norm(row: KernelSet):
    generator = torch.Generator().manual_seed(1)
    x, residual = (torch.randn(2, 3, 16, generator=generator) for _ in range(2))
    layer = AddRmsNorm(16, EPS, row)
    nn.init.normal_(layer.weight, generator=generator)
    normed, total = layer(x, residual)
    assert torch.equal(total, x + residual)
    expected = normed_by_hand(x + residual, layer.weight.detach())
    torch.testing.assert_close(normed.detach().double(), expected, rtol=1e-6, atol=1e-6)


def test_gradients_reach_both_summands_and_the_weight(row: KernelSet):
    generator = torch.Generator().manual_seed(2)
    x, residual = (torch.randn(4, 8, generator=generator, requires_grad=True) for _ in range(2))
    layer = AddRmsNorm(8, EPS, row)
    normed, total = layer(x, residual)
    (normed.sum() + (total * total).sum()).backward()
    assert x.grad is not None
    assert torch.equal(x.grad, residual.grad)
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().sum() > 0


def test_both_layers_keep_their_weight_under_the_same_name(row: KernelSet):
    assert list(RmsNorm(4, EPS, row).state_dict()) == list(AddRmsNorm(4, EPS, row).state_dict()) == ["weight"]


def test_a_fused_layer_computes_what_two_steps_do(row: KernelSet):
    generator = torch.Generator().manual_seed(3)
    x, residual = (torch.randn(5, 12, generator=generator) for _ in range(2))
    fused, plain = AddRmsNorm(12, EPS, row), RmsNorm(12, EPS, row)
    normed, total = fused(x, residual)
    torch.testing.assert_close(normed, plain(total), rtol=1e-6, atol=1e-6)
