import copy

import pytest
import torch
from torch import nn, optim

from portable.train.optim.optimizer import Optimizer, embedding_names, trainable
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


def test_one_state_dict_restores_all_parts():
    first, _, optimizer = two_parts()
    first.grad = torch.ones(2)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())  # it holds the live tensors
    other_first, _, other = two_parts()
    other.load_state_dict(saved)
    with torch.no_grad():
        other_first.copy_(first)
    for parameter, owner in ((first, optimizer), (other_first, other)):
        parameter.grad = torch.ones(2)
        owner.step()
    assert torch.equal(first, other_first)  # momentum went on from the same place


def test_embeddings_are_found_by_their_kind():
    assert embedding_names(TinyModel()) == {"embed.weight"}
    assert embedding_names(nn.Embedding(2, 2)) == {"weight"}


def test_frozen_parameters_are_left_out():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert [name for name, _ in trainable(model)] == ["weight"]
