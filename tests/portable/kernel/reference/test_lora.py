import pytest
import torch
from peft.tuners.lora import Linear as PeftLinear
from peft.tuners.lora import LoraConfig
from torch import nn

from portable.core.errors import ShapeError
from portable.kernel.reference.lora import lora_linear


def inputs(dtype=torch.float64, lead=(2, 3)):
    stream = torch.Generator().manual_seed(0)
    shapes = ((*lead, 8), (5, 8), (3, 8), (5, 3), (5,))
    return [torch.randn(shape, generator=stream).to(dtype).requires_grad_() for shape in shapes]


def test_values_and_gradients_are_those_of_peft():
    x, weight, a, b, bias = inputs(torch.float32)
    base = nn.Linear(8, 5)
    base.weight.data, base.bias.data = weight.detach(), bias.detach()
    layer = PeftLinear(base, "default", LoraConfig(r=3, lora_alpha=6), r=3, lora_alpha=6)
    layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data = a.detach(), b.detach()
    expected = layer(x)
    theirs = torch.autograd.grad(
        expected.square().sum(), [x, layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    )
    out = lora_linear(x, weight, a, b, scale=2.0, bias_O=bias)
    torch.testing.assert_close(out, expected)
    for got, wanted in zip(torch.autograd.grad(out.square().sum(), [x, a, b]), theirs, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("lead", [(), (4,), (0,), (2, 0, 3)])
def test_any_leading_dims(lead):
    x, weight, a, b, _ = inputs(lead=lead)
    out = lora_linear(x, weight, a, b, scale=0.5)
    torch.testing.assert_close(out, x @ (weight + 0.5 * b @ a).T)


def test_the_result_has_the_format_of_x_and_autocasts_wins():
    x, *rest = inputs(torch.float32)
    wide = lora_linear(x, *(t.bfloat16() for t in rest[:3]), scale=1.0)
    narrow = lora_linear(x.bfloat16(), *rest[:3], scale=1.0)
    assert (wide.dtype, narrow.dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(wide.bfloat16(), narrow)  # both multiply in bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(lora_linear(x, *rest[:3], scale=1.0), narrow)


@pytest.mark.parametrize("place", range(5))
def test_shapes_are_checked(place):
    wrong = inputs()
    wrong[place] = wrong[place][..., :-1]
    with pytest.raises(ShapeError, match="lora_linear: x"):
        lora_linear(*wrong[:4], scale=1.0, bias_O=wrong[4])
