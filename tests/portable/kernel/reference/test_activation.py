import math

import pytest
import torch

from portable.core.errors import ShapeError
from portable.kernel.reference.activation import geglu_erf, geglu_tanh, swiglu


def gelu_erf(x):
    return x * (1 + math.erf(x / math.sqrt(2))) / 2


def gelu_tanh(x):
    return x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


FORMULAS = [(swiglu, lambda x: x / (1 + math.exp(-x))), (geglu_erf, gelu_erf), (geglu_tanh, gelu_tanh)]
ALL = pytest.mark.parametrize("op", [swiglu, geglu_erf, geglu_tanh])


@pytest.mark.parametrize(("op", "formula"), FORMULAS)
def test_formula_by_hand(op, formula):
    gate, up = [2.0, -1.0, 0.0, -3.5], [3.0, 5.0, 7.0, -0.5]
    expected = torch.tensor([formula(a) * b for a, b in zip(gate, up, strict=True)]).double()
    torch.testing.assert_close(op(torch.tensor(gate).double(), torch.tensor(up).double()), expected)


def test_the_two_gelus_differ():
    gate, up = torch.full((1,), 2.0).double(), torch.ones(1).double()
    assert 1e-5 < (geglu_erf(gate, up) - geglu_tanh(gate, up)).abs() < 5e-4


@ALL
def test_gradients_are_right(op):
    gate, up = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True).unbind()
    assert torch.autograd.gradcheck(op, (gate, up))


@ALL
@pytest.mark.parametrize("size", [0, 1])
def test_smallest_sizes_and_mixed_formats(op, size):
    gate, up = torch.randn(2, size).bfloat16(), torch.randn(2, size)
    assert op(gate, up).shape == (2, size)
    assert op(gate, gate).dtype == torch.bfloat16
    assert op(gate, up).dtype == op(up, gate).dtype == torch.float32


@ALL
def test_shapes_must_agree_without_broadcasting(op):
    with pytest.raises(ShapeError, match=rf"{op.__name__}: gate \(2, 3\) and up \(1, 3\)"):
        op(torch.zeros(2, 3), torch.zeros(1, 3))
