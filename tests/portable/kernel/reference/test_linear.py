import pytest
import torch

from portable.core.errors import ShapeError
from portable.kernel.reference.linear import linear


def test_formula_by_hand():
    x, weight, bias = (
        torch.tensor([[1.0, 2.0]]),
        torch.tensor([[3.0, 4.0], [5.0, 6.0]]),
        torch.tensor([0.5, -1]),
    )
    assert linear(x, weight, bias).tolist() == [[11.5, 16.0]]


def test_one_dim_and_mixed_formats():
    out = linear(torch.ones(3, dtype=torch.bfloat16), torch.ones(2, 3))
    assert out.dtype == torch.bfloat16
    assert out.tolist() == [3.0, 3.0]


@pytest.mark.parametrize(("weight", "bias"), [((2, 4), None), ((3,), None), ((2, 3), (3,))])
def test_matrices_that_do_not_fit_are_refused(weight, bias):
    given = None if bias is None else torch.ones(bias)
    with pytest.raises(
        ShapeError, match=r"linear: x \(5, 3\), weight .* must be \(\.\.\., I\), \(O, I\), \(O,\)"
    ):
        linear(torch.ones(5, 3), torch.ones(weight), given)
