"""Random streams: seeded, saved, restored, apart from each other; and the absence of chance."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor

from portable.device.protocol import Device


class TestRandomness:
    """The device's streams make every draw on it, and nothing else moves them."""

    @pytest.mark.parametrize("draw", ["uniform", "normal", "dropout", "permutation", "multinomial"])
    def test_seeded_saved_and_restored(self, device: Device, draw: str) -> None:
        device.seed(1)
        first = _draw(device, draw)
        device.seed(1)
        assert torch.equal(_draw(device, draw), first)
        state = pickle.loads(pickle.dumps(device.rng_state()))
        second = _draw(device, draw)
        assert not torch.equal(second, first)
        device.set_rng_state(state)
        assert torch.equal(_draw(device, draw), second)

    def test_generators_stand_alone(self, device: Device) -> None:
        device.seed(0)
        state = device.rng_state()
        unmoved = _draw(device, "uniform")
        device.set_rng_state(state)
        where = device.torch_device()
        assert device.generator(3).device.type == device.torch_type
        drawn = [torch.rand(4, device=where, generator=device.generator(seed)) for seed in (3, 3, 4)]
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])
        assert torch.equal(_draw(device, "uniform"), unmoved)

    def test_draws_on_the_host_do_not_move_the_device(self, device: Device) -> None:
        if device.torch_type == "cpu":
            pytest.skip("the host's stream is this device's")
        device.seed(0)
        first = _draw(device, "uniform")
        device.seed(0)
        torch.rand(100)
        assert torch.equal(_draw(device, "uniform"), first)

    def test_a_gradient_meets_the_mask_of_its_forward_pass(self, device: Device) -> None:
        x = torch.ones(1000, device=device.torch_device(), requires_grad=True)
        y = torch.nn.functional.dropout(x, 0.5)
        y.sum().backward()
        assert x.grad is not None
        assert torch.equal(x.grad, y.detach())


class TestDeterminism:
    """The same bits every time, when they are asked for."""

    def test_twice_the_same_bits(self, device: Device) -> None:
        before = torch.are_deterministic_algorithms_enabled()
        device.set_deterministic(True)
        try:
            assert torch.are_deterministic_algorithms_enabled()
            assert torch.equal(_sum_in_any_order(device), _sum_in_any_order(device))
        finally:
            device.set_deterministic(before)
        assert torch.are_deterministic_algorithms_enabled() == before


def _sum_in_any_order(device: Device) -> Tensor:
    """Add many rows to few: where that is done in parallel, the order of the additions is chance."""
    stream = torch.Generator().manual_seed(0)
    values = torch.randn(4096, 8, generator=stream).to(device.torch_device())
    rows = torch.randint(4, (4096,), generator=stream).to(device.torch_device())
    return torch.zeros(4, 8, device=device.torch_device()).index_add_(0, rows, values).cpu()


def _draw(device: Device, kind: str) -> Tensor:
    where = device.torch_device()
    match kind:
        case "normal":
            drawn = torch.randn(64, device=where)
        case "dropout":
            drawn = torch.nn.functional.dropout(torch.ones(64, device=where), 0.5)
        case "permutation":
            drawn = torch.randperm(64, device=where)
        case "multinomial":
            drawn = torch.multinomial(torch.ones(4, device=where), 64, replacement=True)
        case _:
            drawn = torch.rand(64, device=where)
    return drawn.cpu()
