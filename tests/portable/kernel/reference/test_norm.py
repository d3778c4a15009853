import math

import numpy as np
import pytest
import torch

from portable.core.errors import ShapeError
from portable.kernel.reference.norm import add_rms_norm, layer_norm, rms_norm, rms_norm_one_plus_w


def draw(*shapes, dtype=torch.float64):
    stream = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=stream, dtype=dtype) for shape in shapes]


def test_rms_norm_by_hand():
    x = torch.tensor([[[3.0, 4.0]]], dtype=torch.float64)
    weight = torch.tensor([1.0, 10.0], dtype=torch.float64)
    root = math.sqrt((9 + 16) / 2 + 0.5)
    expected = torch.tensor([3 / root, 40 / root]).double()
    torch.testing.assert_close(rms_norm(x, weight, 0.5)[0, 0], expected)
    torch.testing.assert_close(rms_norm_one_plus_w(x, weight - 1, 0.5)[0, 0], expected)


def test_layer_norm_by_hand():
    x = torch.tensor([[1.0, 3.0, 8.0]], dtype=torch.float64)  # mean 4, variance (9 + 1 + 16) / 3
    root = math.sqrt(26 / 3 + 0.5)
    weight, bias = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([0.5, 0.0, -1.0]).double()
    expected = torch.tensor([[-3 / root + 0.5, -2 / root, 12 / root - 1]]).double()
    torch.testing.assert_close(layer_norm(x, weight, bias, 0.5), expected)
    torch.testing.assert_close(layer_norm(x, weight, eps=0.5), expected - bias)


def test_they_agree_with_torch():
    x, weight, bias = draw((2, 3, 8), (8,), (8,))
    torch.testing.assert_close(rms_norm(x, weight, 1e-6), torch.nn.functional.rms_norm(x, (8,), weight, 1e-6))
    expected = torch.nn.functional.layer_norm(x, (8,), weight, bias, 1e-5)
    torch.testing.assert_close(layer_norm(x, weight, bias, 1e-5), expected)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y, weight, bias: rms_norm(x + y, weight),
        lambda x, y, weight, bias: rms_norm_one_plus_w(x + y, weight),
        lambda x, y, weight, bias: add_rms_norm(x, y, weight),
        lambda x, y, weight, bias: layer_norm(x + y, weight, bias),
    ],
    ids=["rms_norm", "one_plus_w", "add", "layer_norm"],
)
def test_gradients_are_right(function):
    inputs = [x.requires_grad_() for x in draw((2, 3, 8), (2, 3, 8), (8,), (8,))]
    assert torch.autograd.gradcheck(function, inputs)


def test_eps_keeps_zeros_finite():
    x, weight = torch.zeros(1, 1, 4, requires_grad=True), torch.ones(4)
    for norm in (rms_norm, rms_norm_one_plus_w, layer_norm):
        out = norm(x, weight)
        assert torch.equal(out, torch.zeros(1, 1, 4))
        assert torch.autograd.grad(out.sum(), x)[0].isfinite().all()


def test_sums_are_taken_in_float32_and_the_format_kept():
    x = torch.full((1, 1, 4096), 300.0, dtype=torch.float16)  # 300^2 overflows float16
    out = rms_norm(x, torch.ones(4096))
    assert out.dtype == torch.float16
    torch.testing.assert_close(out, torch.ones_like(out))
    assert torch.equal(layer_norm(x, torch.ones(4096), torch.ones(4096)), torch.ones_like(x))


def test_rms_norm_is_rounded_before_the_weight_and_one_plus_w_only_once():
    x, weight = (t.bfloat16() for t in draw((5, 64), (64,)))
    wide = x.double().numpy()
    normed = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-6)
    twice = (torch.tensor(normed).float().bfloat16() * weight).bfloat16()
    once = torch.tensor(normed * (1 + weight.double().numpy())).float().bfloat16()
    assert torch.equal(rms_norm(x, weight), twice)
    assert torch.equal(rms_norm_one_plus_w(x, weight), once)


def test_one_plus_a_weight_too_small_for_16_bits_is_not_lost():
    weight = torch.full((256,), 3e-3, dtype=torch.bfloat16)
    assert torch.equal(1 + weight, torch.ones_like(weight))
    out = rms_norm_one_plus_w(torch.full((1, 256), 4.0), weight, 0.0)
    torch.testing.assert_close(out, (1 + weight.float()).unsqueeze(0))


def test_add_rms_norm_normalises_the_rounded_sum():
    x, residual, weight = (t.bfloat16() for t in draw((2, 3, 8), (2, 3, 8), (8,)))
    normed, total = add_rms_norm(x, residual, weight)
    assert torch.equal(total, x + residual)
    assert torch.equal(normed, rms_norm(x + residual, weight))
    wide_normed, wide_total = add_rms_norm(x, residual.float(), weight)
    assert wide_normed.dtype == wide_total.dtype == torch.float32


@pytest.mark.parametrize("shape", [(0, 4), (1, 4), (3, 0, 4), (1,), (2, 3, 1, 4)])
def test_any_leading_dims_will_do(shape):
    x, weight = torch.ones(shape), torch.ones(shape[-1])
    for norm in (rms_norm, rms_norm_one_plus_w, layer_norm):
        assert norm(x, weight).shape == shape


@pytest.mark.parametrize("norm", [rms_norm, rms_norm_one_plus_w, layer_norm])
def test_wrong_weight_is_refused(norm):
    for weight in (torch.ones(3), torch.ones(1, 4), torch.ones(1)):
        with pytest.raises(ShapeError, match=rf"{norm.__name__}: weight \(.*\).*x \(1, 2, 4\)"):
            norm(torch.zeros(1, 2, 4), weight)
    with pytest.raises(ShapeError, match="last dim"):
        norm(torch.tensor(1.0), torch.tensor(1.0))


def test_wrong_bias_and_residual_are_refused():
    with pytest.raises(ShapeError, match=r"layer_norm: bias \(3,\)"):
        layer_norm(torch.zeros(1, 2, 4), torch.ones(4), torch.ones(3))
    with pytest.raises(ShapeError, match=r"add_rms_norm: x \(2, 4\) and residual \(1, 4\)"):
        add_rms_norm(torch.zeros(2, 4), torch.zeros(1, 4), torch.ones(4))
