"""How cases draw their inputs and lay them out."""

import pytest
import torch

from portable.kernel.conformance.case import Case, Draw, Layout, convert, tensors_in, to_double

CPU = torch.device("cpu")


def build(draw: Draw) -> dict:
    return {
        "x": draw.normal(3, 4, 5),
        "many": [draw.normal(2), draw.normal(3)],
        "n": draw.whole(0, 9, 4),
        "eps": 0.5,
    }


def case(**given) -> Case:
    return Case(op="rms_norm", name="of_this_test", build=build, **given)


def test_inputs_are_the_same_at_each_call_and_rounded():
    one, two = case().draw_inputs("bf16"), case().draw_inputs("bf16")
    assert torch.equal(one["x"], two["x"])
    assert one["x"].dtype == torch.bfloat16
    assert torch.equal(case().draw_inputs("fp32")["x"].bfloat16(), one["x"])
    assert not torch.equal(Case(op="rms_norm", name="other", build=build).draw_inputs("bf16")["x"], one["x"])


@pytest.mark.parametrize("layout", Layout)
def test_a_layout_changes_memory_and_no_value(layout: Layout):
    given = case(layouts={"x": layout, "many": layout, "n": layout})
    inputs = given.draw_inputs("fp32")
    placed = given.place(inputs, CPU)
    assert torch.equal(placed["x"], inputs["x"])
    assert not placed["x"].is_contiguous()
    assert all(map(torch.equal, placed["many"], inputs["many"]))
    assert torch.equal(placed["n"], inputs["n"])


def test_what_lies_between_strided_values_is_nan():
    placed = case(layouts={"x": Layout.stepped}).place(case().draw_inputs("fp32"), CPU)["x"]
    whole = torch.as_strided(placed, (3, 4, 10), (40, 10, 1))
    assert whole[..., 1::2].isnan().all()


def test_leaves_keep_their_layout_and_get_gradients():
    given = case(layouts={"x": Layout.expanded}, leaves=("x",))
    x = given.place(given.draw_inputs("fp32"), CPU, with_grad=True)["x"]
    assert x.is_leaf
    assert x.requires_grad
    assert x.stride(0) == 0
    (grad,) = torch.autograd.grad((x * torch.arange(3.0)[:, None, None]).sum(), x)
    assert grad[:, 0, 0].tolist() == [0, 1, 2]


def test_placed_inputs_are_copies():
    inputs = case().draw_inputs("fp32")
    case().place(inputs, CPU)["x"].zero_()
    assert inputs["x"].abs().sum() > 0


def test_truth_is_computed_from_the_rounded_inputs_in_float64():
    inputs = {**case().draw_inputs("bf16"), "dtype": torch.bfloat16}
    precise = to_double(inputs)
    assert precise["dtype"] == torch.float64
    assert torch.equal(precise["x"].bfloat16(), inputs["x"])
    assert precise["n"].dtype == torch.int64
    assert [x.dtype for x in tensors_in(precise["many"])] == [torch.float64] * 2
    assert convert(inputs, torch.neg)["eps"] == 0.5
