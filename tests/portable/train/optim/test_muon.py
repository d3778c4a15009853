import pytest
import torch
from torch import nn, optim

from portable.core.errors import ConfigError
from portable.device.protocol import Dtype
from portable.kernel.reference.muon import muon_step
from portable.train.config import MuonConfig
from portable.train.optim.adamw import AdamW
from portable.train.optim.muon import Muon
from tests.portable.train.optim.support import build
from tests.portable.train.support import TinyModel


def test_hidden_matrices_go_to_muon_and_the_rest_to_adamw():
    model = TinyModel(num_blocks=2)
    optimizer = build(model, MuonConfig(lr=0.03, adamw_lr=0.004))
    muon, adamw = optimizer.parts
    assert isinstance(muon, Muon)
    assert isinstance(adamw, AdamW)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    hidden = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    assert hidden == {"blocks.0.inner.weight", "blocks.1.inner.weight"}
    rest = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert rest == set(names.values()) - hidden
    assert {group["lr"] for group in muon.param_groups} == {0.03}
    assert {group["lr"] for group in adamw.param_groups} == {0.004}


def test_the_update_of_a_hidden_matrix_is_nearly_orthogonal():
    model = TinyModel(num_blocks=1)
    optimizer = build(model, MuonConfig(lr=1.0))
    before = model.blocks[0].inner.weight.detach().clone()
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    singular = torch.linalg.svdvals(model.blocks[0].inner.weight.detach() - before)
    assert singular.min() > 0.3
    assert singular.max() < 1.5


def test_a_frozen_model_with_plain_adapters_still_trains():
    model = TinyModel()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name == "blocks.1.inner.weight")
    assert len(build(model, MuonConfig()).parts) == 1


def test_a_model_without_hidden_matrices_is_sent_to_adamw():
    with pytest.raises(ConfigError, match=r"optim=muon found no hidden matrix .* use optim=adamw"):
        build(nn.Linear(2, 2), MuonConfig())


def test_five_steps_are_torchs_to_the_bit():
    ours, theirs = TinyModel(num_blocks=2, seed=4), TinyModel(num_blocks=2, seed=4)
    muon = build(ours, MuonConfig(lr=0.02, weight_decay=0.1)).parts[0]
    hidden = [block.inner.weight for block in theirs.blocks]
    peer = optim.Muon(hidden, lr=0.02, weight_decay=0.1, momentum=0.95)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        for own, other in zip(ours.blocks, hidden, strict=True):
            own.inner.weight.grad = torch.randn(other.shape, generator=generator)
            other.grad = own.inner.weight.grad.clone()
        muon.step()
        peer.step()
    for own, other in zip(ours.blocks, hidden, strict=True):
        assert torch.equal(own.inner.weight, other)


def step_after(seed: int, noise: float, dtype: torch.dtype) -> torch.Tensor:
    """Return a matrix after one step, its gradient off by ``noise``."""
    generator = torch.Generator().manual_seed(seed)
    weight, momentum = torch.zeros(32, 32), torch.zeros(32, 32)
    grad = torch.randn(32, 32, generator=generator) + noise * torch.randn(32, 32, generator=generator)
    muon_step(weight, grad, momentum, lr=1.0, momentum=0.95, weight_decay=0.0, dtype=dtype)
    return weight


def test_in_fp32_a_last_bit_stays_one_and_in_bf16_it_may_grow():
    def drift(dtype: torch.dtype) -> float:
        pairs = ((step_after(seed, 1e-6, dtype), step_after(seed, 0.0, dtype)) for seed in range(30))
        return max((off - exact).abs().max().item() for off, exact in pairs)

    assert drift(torch.float32) < 1e-4
    assert drift(torch.bfloat16) > 10 * drift(torch.float32)


def test_the_setting_reaches_the_kernel():
    model = TinyModel(num_blocks=1, seed=5)
    weight = model.blocks[0].inner.weight
    expected = weight.detach().clone()
    optimizer = build(model, MuonConfig(lr=1.0, iteration_dtype=Dtype.fp32))
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    momentum = torch.zeros_like(expected)
    muon_step(expected, weight.grad, momentum, lr=1.0, momentum=0.95, weight_decay=0.0, dtype=torch.float32)
    optimizer.step()
    assert torch.equal(weight, expected)
