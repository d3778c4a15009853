import math

import pytest
import torch

from portable.core.errors import ShapeError
from portable.kernel.reference.rope import rope_half, rope_interleave


def halves(angles_BTP):
    doubled = torch.cat((angles_BTP, angles_BTP), -1)
    return doubled.cos(), doubled.sin()


def neighbours(angles_BTP):
    doubled = angles_BTP.repeat_interleave(2, -1)
    return doubled.cos(), doubled.sin()


BOTH = pytest.mark.parametrize(("rope", "tables"), [(rope_half, halves), (rope_interleave, neighbours)])


def turned(a, b, angle):
    return a * math.cos(angle) - b * math.sin(angle), b * math.cos(angle) + a * math.sin(angle)


@pytest.mark.parametrize("rotary_dim", [4, 6])
def test_pairs_are_turned_by_their_angle_and_the_rest_passes(rotary_dim):
    stream = torch.Generator().manual_seed(0)
    q = torch.randn(2, 3, 2, 6, generator=stream, dtype=torch.float64)
    k = torch.randn(2, 3, 1, 6, generator=stream, dtype=torch.float64)
    pairs = rotary_dim // 2
    angles = torch.randn(2, 3, pairs, generator=stream, dtype=torch.float64)
    for rope, tables, dims in (
        (rope_half, halves, lambda i: (i, i + pairs)),
        (rope_interleave, neighbours, lambda i: (2 * i, 2 * i + 1)),
    ):
        for x, out in zip((q, k), rope(q, k, *tables(angles)), strict=True):
            expected = x.clone()
            for b, t, n, i in torch.cartesian_prod(*(torch.arange(s) for s in (2, 3, x.shape[2], pairs))):
                first, second = dims(int(i))
                pair = turned(x[b, t, n, first], x[b, t, n, second], angles[b, t, i])
                expected[b, t, n, first], expected[b, t, n, second] = pair
            torch.testing.assert_close(out, expected)


def test_interleave_is_half_of_permuted_dims():
    stream = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 3, 2, 8, generator=stream)
    angles = torch.randn(1, 3, 4, generator=stream)
    order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
    expected = rope_half(q[..., order], k[..., order], *halves(angles))
    for out, wanted in zip(rope_interleave(q, k, *neighbours(angles)), expected, strict=True):
        assert torch.equal(out[..., order], wanted)


@BOTH
def test_scores_depend_on_distance_only(rope, tables):
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    frequencies = torch.rand(4, generator=torch.Generator().manual_seed(0)).double()

    def score(i, j):
        turned_q, _ = rope(q, q, *tables((frequencies * i).view(1, 1, 4)))
        _, turned_k = rope(k, k, *tables((frequencies * j).view(1, 1, 4)))
        return (turned_q * turned_k).sum()

    torch.testing.assert_close(score(7, 4), score(103, 100))
    assert (score(7, 4) - score(7, 5)).abs() > 1e-6


@BOTH
@pytest.mark.parametrize("rotary_dim", [4, 6])
def test_norm_is_kept_and_gradients_are_right(rope, tables, rotary_dim):
    q = torch.randn(1, 3, 2, 6, dtype=torch.float64, requires_grad=True)
    k = torch.randn(1, 3, 1, 6, dtype=torch.float64, requires_grad=True)
    cos, sin = tables(torch.randn(1, 3, rotary_dim // 2).double())
    out = rope(q, k, cos, sin)
    torch.testing.assert_close(out[0].norm(dim=-1), q.norm(dim=-1))
    torch.testing.assert_close(out[1].norm(dim=-1), k.norm(dim=-1))
    assert torch.autograd.gradcheck(lambda a, b: rope(a, b, cos, sin), (q, k))


@BOTH
def test_tables_are_constants(rope, tables):
    q = torch.randn(1, 2, 1, 4)
    cos, sin = (x.requires_grad_() for x in tables(torch.randn(1, 2, 2)))
    assert not rope(q, q, cos, sin)[0].requires_grad


@BOTH
def test_16_bit_vectors_are_turned_in_float32(rope, tables):
    q = torch.randn(1, 5, 2, 8).bfloat16()
    for table in (tables(torch.randn(1, 5, 4)), tables(torch.randn(1, 5, 4).bfloat16())):
        out, _ = rope(q, q, *table)
        assert out.dtype == torch.bfloat16
        assert torch.equal(out, rope(q.float(), q.float(), *table)[0].bfloat16())


@BOTH
@pytest.mark.parametrize("shape", [(0, 3, 2, 4), (2, 0, 2, 4), (1, 1, 1, 2)])
def test_smallest_sizes(rope, tables, shape):
    q = torch.zeros(shape)
    assert rope(q, q, *tables(torch.zeros(*shape[:2], shape[-1] // 2)))[0].shape == shape


@BOTH
def test_tables_that_do_not_fit_are_refused(rope, tables):
    q, name = torch.zeros(2, 3, 4, 8), rope.__name__
    fitting = torch.zeros(2, 3, 8)
    for cos, sin in (
        (torch.zeros(2, 1, 8), torch.zeros(2, 1, 8)),
        (torch.zeros(3, 8), torch.zeros(3, 8)),
        (fitting, torch.zeros(2, 3, 6)),
        (torch.tensor(1.0), torch.tensor(1.0)),
    ):
        with pytest.raises(ShapeError, match=rf"{name}: .* need tables of \(2, 3\)"):
            rope(q, q, cos, sin)
    for rotary_dim in (0, 5, 10):
        wrong = torch.zeros(2, 3, rotary_dim)
        with pytest.raises(
            ShapeError, match=f"{name}: tables of {rotary_dim} rotated dims .* from 2 to head_dim"
        ):
            rope(q, q, wrong, wrong)
    for k in (torch.zeros(2, 3, 4, 6), torch.zeros(2, 2, 4, 8), torch.zeros(2, 3, 8)):
        with pytest.raises(ShapeError, match=f"{name}: q .* number of heads only"):
            rope(q, k, fitting, fitting)
