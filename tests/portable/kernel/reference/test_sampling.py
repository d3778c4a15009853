import math

import pytest
import torch

from portable.core.errors import ShapeError
from portable.kernel.reference.sampling import top_k_top_p


def plain(logits, top_k, top_p):
    """The rule, for one row of Python numbers: the kept tokens."""
    order = sorted(range(len(logits)), key=lambda token: -logits[token])  # sorted is stable
    order = order[:top_k] if top_k > 0 else order
    weights = [math.exp(logits[token] - logits[order[0]]) for token in order]
    total, before, kept = sum(weights), 0.0, set()
    for token, weight in zip(order, weights, strict=True):
        if not kept or top_p >= 1 or before / total < top_p:
            kept.add(token)
        before += weight
    return kept


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rows_are_cut_by_the_rule(dtype):
    stream = torch.Generator().manual_seed(0)
    logits = (2 * torch.randn(200, 12, generator=stream)).to(dtype)
    logits[::3] = logits[::3].round()  # many ties
    top_k = torch.randint(0, 15, (200,), generator=stream)
    top_p = torch.rand(200, generator=stream) * 1.2
    out = top_k_top_p(logits, top_k, top_p)
    assert out.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for row, cut, k, p in zip(logits, out, top_k.tolist(), top_p.tolist(), strict=True):
        kept = plain(row.tolist(), k, p)
        assert set(cut.isfinite().nonzero().flatten().tolist()) == kept
        assert all(cut[token] == row[token] for token in kept)


def test_of_equal_logits_the_lower_index_stays():
    out = top_k_top_p(torch.zeros(2, 5), torch.tensor([2, 0]), torch.tensor([1.0, 0.5]))
    assert out.isfinite().tolist() == [[True, True, False, False, False], [True, True, True, False, False]]


@pytest.mark.parametrize("top_p", [0.0, 1e-9])
def test_the_best_token_always_stays(top_p):
    out = top_k_top_p(torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([0]), torch.tensor([top_p]))
    assert out.tolist() == [[-math.inf, 3.0, -math.inf]]


def test_nothing_is_cut_by_zero_and_one():
    logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(top_k_top_p(logits, torch.zeros(3).long(), torch.tensor([1.0, 1.5, 2.0])), logits)


def test_impossible_tokens_stay_impossible():
    logits = torch.tensor([[-math.inf, 1.0, -math.inf, 0.0], [-math.inf] * 4])
    out = top_k_top_p(logits, torch.tensor([3, 2]), torch.tensor([1.0, 0.5]))
    assert torch.equal(out, logits)


def test_kept_logits_pass_their_gradient():
    logits = torch.tensor([[1.0, 3.0, 2.0]], requires_grad=True)
    top_k_top_p(logits, torch.tensor([2]), torch.tensor([1.0]))[0, 1:].sum().backward()
    assert logits.grad.tolist() == [[0.0, 1.0, 1.0]]


@pytest.mark.parametrize("shape", [(0, 5), (3, 1)])
def test_small_sizes(shape):
    out = top_k_top_p(torch.zeros(shape), torch.ones(shape[0]).long(), torch.full((shape[0],), 0.5))
    assert torch.equal(out, torch.zeros(shape))


def test_shapes_are_checked():
    with pytest.raises(ShapeError, match=r"top_k \(2,\) and top_p \(3,\)"):
        top_k_top_p(torch.zeros(3, 4), torch.zeros(2).long(), torch.ones(3))
