import pytest
import torch
from torch import nn, optim

from portable.core.errors import ConfigError
from portable.train.config import AdamW8bitConfig, AdamWConfig, MuonConfig, OptimConfig
from portable.train.optim.optimizer import Optimizer
from tests.portable.train.optim.support import build
from tests.portable.train.support import TinyModel


def two_parts() -> tuple[nn.Parameter, nn.Parameter, Optimizer]:
    first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    return first, second, Optimizer([optim.SGD([first], lr=1.0, momentum=0.5), optim.SGD([second], lr=0.1)])


def test_the_factor_scales_each_parts_own_learning_rate():
    _, _, optimizer = two_parts()
    optimizer.set_lr_factor(0.5)
    optimizer.set_lr_factor(0.2)  # of the base, not of what was set before
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2, 0.02])


def test_a_step_updates_all_parts_and_zero_grad_clears_them():
    first, second, optimizer = two_parts()
    first.grad, second.grad = torch.ones(2), torch.ones(2)
    optimizer.step()
    optimizer.zero_grad()
    assert first.tolist() == [0.0, 0.0]
    assert second.tolist() == pytest.approx([0.9, 0.9])
    assert first.grad is None
    assert second.grad is None


def stepped(model: nn.Module, optimizer: Optimizer, steps: int) -> None:
    generator = torch.Generator().manual_seed(steps)
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("config", [AdamWConfig(lr=0.1), AdamW8bitConfig(lr=0.1, min_size=40), MuonConfig()])
def test_the_state_of_each_parameter_goes_into_a_new_optimiser(config: OptimConfig):
    model, other = TinyModel(seed=1), TinyModel(seed=1)
    optimizer, copy = build(model, config), build(other, config)
    stepped(model, optimizer, 3)
    other.load_state_dict(model.state_dict())
    copy.prepare()
    for own, its in zip(model.parameters(), other.parameters(), strict=True):
        state = {name: value.clone() for name, value in optimizer.state_of(own).items()}
        assert all(value.shape in (own.shape, ()) for value in state.values())
        copy.load_state_of(its, state)
    stepped(model, optimizer, 2)
    stepped(other, copy, 2)
    for own, its in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(own, its)


def test_a_part_that_cannot_prepare_is_named():
    _, _, optimizer = two_parts()
    with pytest.raises(ConfigError, match=r"SGD has no method prepare\(parameter\)"):
        optimizer.prepare()


def test_a_parameter_without_state_is_an_error():
    first, _, optimizer = two_parts()
    with pytest.raises(ConfigError, match="has no optimiser state"):
        optimizer.state_of(first)
