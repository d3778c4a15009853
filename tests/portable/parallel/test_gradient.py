import pytest
import torch
from torch import nn

from portable.parallel.gradient import clip_gradients, host_state_dict


def model_with_gradient(value: float) -> nn.Linear:
    model = nn.Linear(2, 2)
    model.weight.grad = torch.full((2, 2), value)
    model.bias.grad = None
    return model


def test_a_norm_above_the_bound_is_scaled_to_it():
    model = model_with_gradient(3.0)
    assert float(clip_gradients(model, 1.5)) == pytest.approx(6.0)
    assert float(model.weight.grad.norm()) == pytest.approx(1.5, rel=1e-5)


def test_a_norm_below_the_bound_is_left():
    model = model_with_gradient(0.1)
    clip_gradients(model, 1.0)
    assert torch.equal(model.weight.grad, torch.full((2, 2), 0.1))


def test_zero_means_measure_only():
    model = model_with_gradient(3.0)
    assert float(clip_gradients(model, 0.0)) == pytest.approx(6.0)
    assert torch.equal(model.weight.grad, torch.full((2, 2), 3.0))


def test_without_gradients_the_norm_is_zero():
    assert float(clip_gradients(nn.Linear(2, 2), 1.0)) == 0.0


def test_host_weights_are_copies():
    model = nn.Linear(2, 2)
    state = host_state_dict(model)
    with torch.no_grad():
        model.weight.zero_()
    assert state.keys() == {"weight", "bias"}
    assert state["weight"].abs().sum() > 0
