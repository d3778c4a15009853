from typing import ClassVar

import pytest
import torch
from torch import nn

from portable.device.select import load_backend
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
    state = host_state_dict(model, load_backend("cpu").device())
    with torch.no_grad():
        model.weight.zero_()
    assert state.keys() == {"weight", "bias"}
    assert state["weight"].abs().sum() > 0


def test_private_layouts_are_undone_before_the_host_sees_them():
    class Device:
        seen: ClassVar[list[torch.Size]] = []

        def to_portable(self, tensor: torch.Tensor) -> torch.Tensor:
            self.seen.append(tensor.shape)
            return tensor + 1

    model = nn.Linear(2, 2)
    state = host_state_dict(model, Device())
    assert len(Device.seen) == 2
    assert torch.equal(state["bias"], model.bias.detach() + 1)
