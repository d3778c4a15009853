import math

import pytest
import torch

from portable.core.errors import ShapeError
from portable.kernel.reference.rope import apply_rope


def tables(angles_BTP):
    doubled = torch.cat((angles_BTP, angles_BTP), -1)
    return doubled.cos(), doubled.sin()


def test_halves_are_paired_and_turned_by_their_angle():
    q = torch.tensor([1.0, 10.0, 2.0, 20.0]).double().view(1, 1, 1, 4)
    a, b = 0.3, 1.1
    out, _ = apply_rope(q, q, *tables(torch.tensor([[[a, b]]]).double()))
    expected = [
        1 * math.cos(a) - 2 * math.sin(a),
        10 * math.cos(b) - 20 * math.sin(b),
        2 * math.cos(a) + 1 * math.sin(a),
        20 * math.cos(b) + 10 * math.sin(b),
    ]
    torch.testing.assert_close(out.flatten(), torch.tensor(expected).double())


def test_scores_depend_on_distance_only():
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)
    frequencies = torch.rand(4).double()

    def score(i, j):
        turned_q, _ = apply_rope(q, q, *tables((frequencies * i).view(1, 1, 4)))
        _, turned_k = apply_rope(k, k, *tables((frequencies * j).view(1, 1, 4)))
        return (turned_q * turned_k).sum()

    torch.testing.assert_close(score(7, 4), score(103, 100))
    assert (score(7, 4) - score(7, 5)).abs() > 1e-6


def test_norm_is_kept_and_gradients_are_right():
    q = torch.randn(1, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    k = torch.randn(1, 3, 1, 4, dtype=torch.float64, requires_grad=True)
    cos, sin = tables(torch.randn(1, 3, 2).double())
    turned = apply_rope(q, k, cos, sin)
    torch.testing.assert_close(turned[0].norm(dim=-1), q.norm(dim=-1))
    torch.testing.assert_close(turned[1].norm(dim=-1), k.norm(dim=-1))
    assert torch.autograd.gradcheck(lambda a, b: apply_rope(a, b, cos, sin), (q, k))


def test_16_bit_vectors_are_turned_by_32_bit_angles():
    q = torch.randn(1, 5, 2, 8).bfloat16()
    cos, sin = tables(torch.randn(1, 5, 4))
    out, _ = apply_rope(q, q, cos, sin)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, apply_rope(q.float(), q.float(), cos, sin)[0].bfloat16())


def test_tables_of_another_shape_are_refused():
    q = torch.zeros(2, 3, 4, 8)
    with pytest.raises(ShapeError, match=r"tables of \(2, 3, 8\)"):
        apply_rope(q, q, torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))
    with pytest.raises(ShapeError, match="apply_rope"):
        apply_rope(q, torch.zeros(2, 3, 4, 6), torch.zeros(2, 3, 8), torch.zeros(2, 3, 8))
