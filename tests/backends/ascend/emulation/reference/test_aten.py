"""Gradients that torch_npu sends to operators of its own, through torch's functions."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from tests.backends.ascend.emulation.oracle import check, close

pytestmark = pytest.mark.ascend_emulation

SHAPES = [
    ((3,), (3,)),
    ((3,), (3, 4)),
    ((2, 3), (3,)),
    ((2, 3), (3, 4)),
    ((5, 2, 3), (3,)),
    ((5, 2, 3), (3, 4)),
]
SHAPES += [((3,), (5, 3, 4)), ((2, 3), (5, 3, 4)), ((5, 1, 2, 3), (6, 3, 4)), ((1, 2, 3), (5, 3, 4))]


@pytest.mark.parametrize(("left", "right"), SHAPES)
def test_matmul(torch_npu: ModuleType, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    check(torch.matmul, torch.matmul, torch.randn(left), torch.randn(right))


def test_second_derivative_of_matmul(torch_npu: ModuleType) -> None:
    def penalty(a: Tensor, b: Tensor) -> Tensor:
        gradients = torch.autograd.grad((a @ b).square().sum(), (a, b), create_graph=True)
        return sum(g.square().sum() for g in gradients)

    torch.manual_seed(0)
    check(penalty, penalty, torch.randn(2, 3, 4), torch.randn(2, 4, 5))


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "repeat": lambda x: x.repeat_interleave(3, 1),
    "repeat-flat": lambda x: x.repeat_interleave(2),
    "repeat-each": lambda x: x.repeat_interleave(torch.tensor([2, 0, 1, 3], device=x.device), 0),
    "gather": lambda x: x.gather(1, torch.tensor([[0, 0], [2, 1], [1, 1], [0, 2]], device=x.device)),
    "max": lambda x: x.max(1)[0],
    "renorm": lambda x: torch.renorm(x, 2, 0, 0.5),
    "renorm-1": lambda x: torch.renorm(x, 1, 1, 0.5),
    "rfft": lambda x: torch.fft.rfft(x).abs(),
    "irfft": lambda x: torch.fft.irfft(torch.complex(x, x * x)),
    "where": lambda x: torch.where(x > 0, x, x * x),
    "stack-softmax": lambda x: torch.stack([x, x * x]).softmax(0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(torch_npu: ModuleType, name: str) -> None:
    torch.manual_seed(0)
    check(FUNCTIONS[name], FUNCTIONS[name], torch.randn(4, 5) if name.endswith("fft") else torch.randn(4, 3))


@pytest.mark.parametrize("layer", [torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN])
def test_recurrent_layers(torch_npu: ModuleType, layer: type[torch.nn.Module]) -> None:
    torch.manual_seed(0)
    here = layer(4, 5, num_layers=2, bidirectional=True).double()
    there = layer(4, 5, num_layers=2, bidirectional=True)
    there.load_state_dict(here.state_dict())
    there.to("npu")
    check(lambda x: there(x)[0], lambda x: here(x)[0], torch.randn(6, 2, 4))
    for (name, ours), theirs in zip(there.named_parameters(), here.parameters(), strict=True):
        close(ours.grad, theirs.grad, 1e-5, name)
