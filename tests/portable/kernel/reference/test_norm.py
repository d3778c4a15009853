import math

import pytest
import torch

from portable.core.errors import ShapeError
from portable.kernel.reference.norm import rms_norm


def test_formula_by_hand():
    x = torch.tensor([[[3.0, 4.0]]], dtype=torch.float64)
    weight = torch.tensor([1.0, 10.0], dtype=torch.float64)
    root = math.sqrt((9 + 16) / 2 + 0.5)
    torch.testing.assert_close(rms_norm(x, weight, 0.5)[0, 0], torch.tensor([3 / root, 40 / root]).double())


def test_agrees_with_torch_and_gradients_are_right():
    x = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(8, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(rms_norm(x, weight, 1e-6), torch.nn.functional.rms_norm(x, (8,), weight, 1e-6))
    assert torch.autograd.gradcheck(lambda a, b: rms_norm(a, b, 1e-6), (x, weight))


def test_eps_keeps_zeros_finite():
    assert torch.equal(rms_norm(torch.zeros(1, 1, 4), torch.ones(4)), torch.zeros(1, 1, 4))


def test_mean_is_taken_in_float32_and_the_format_kept():
    x = torch.full((1, 1, 4096), 300.0, dtype=torch.float16)  # 300^2 overflows float16
    out = rms_norm(x, torch.ones(4096))
    assert out.dtype == torch.float16
    torch.testing.assert_close(out, torch.ones_like(out))


def test_wrong_weight_is_refused():
    with pytest.raises(ShapeError, match=r"weight \(3,\).*x \(1, 2, 4\)"):
        rms_norm(torch.zeros(1, 2, 4), torch.ones(3))
