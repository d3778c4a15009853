import math

import pytest
import torch

from portable.core.errors import ShapeError
from portable.kernel.reference.swiglu import swiglu


def test_formula_by_hand():
    gate, up = torch.tensor([2.0, -1.0]).double(), torch.tensor([3.0, 5.0]).double()
    expected = torch.tensor([2 / (1 + math.exp(-2)) * 3, -1 / (1 + math.exp(1)) * 5]).double()
    torch.testing.assert_close(swiglu(gate, up), expected)


def test_gradients_are_right():
    gate, up = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True).unbind()
    assert torch.autograd.gradcheck(swiglu, (gate, up))


def test_shapes_must_agree_without_broadcasting():
    with pytest.raises(ShapeError, match=r"gate \(2, 3\) and up \(1, 3\)"):
        swiglu(torch.zeros(2, 3), torch.zeros(1, 3))
