import pytest
import torch

from portable.core.errors import ConfigError, ShapeError
from portable.kernel.reference.moe import (
    grouped_matmul,
    moe_gate_sigmoid,
    moe_gate_softmax,
    moe_permute,
    moe_unpermute,
)


def numbers(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_softmax_gate_takes_the_largest_and_renormalises():
    logits = numbers(20, 8)
    weights, experts = moe_gate_softmax(logits, top_k=3)
    values, order = logits.topk(3)
    assert torch.equal(experts, order)
    torch.testing.assert_close(weights, values.softmax(-1))  # Mixtral's form of the same
    plain, _ = moe_gate_softmax(logits, top_k=3, renormalize=False)
    torch.testing.assert_close(plain, logits.softmax(-1).gather(-1, experts))


def test_sigmoid_gate_chooses_with_the_bias_and_weighs_without():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]], dtype=torch.float64, requires_grad=True)
    bias = torch.tensor([0.0, 0.0, -1.0, 1.0], dtype=torch.float64, requires_grad=True)
    weights, experts = moe_gate_sigmoid(logits, top_k=2, bias_E=bias, scale=2.5)
    assert experts.tolist() == [[3, 1]]
    scores = logits.sigmoid()[0, [3, 1]]
    torch.testing.assert_close(weights[0], 2.5 * scores / scores.sum())
    plain, _ = moe_gate_sigmoid(logits, top_k=2, bias_E=bias, renormalize=False)
    torch.testing.assert_close(plain[0], scores)
    grads = torch.autograd.grad(weights[0, 0], [logits, bias], allow_unused=True)
    assert grads[0].isfinite().all()
    assert grads[1] is None


@pytest.mark.parametrize("gate", [moe_gate_softmax, moe_gate_sigmoid])
def test_of_equal_experts_the_lower_comes_first(gate):
    _, experts = gate(torch.tensor([[1.0, 2.0, 1.0, 2.0, 1.0]]).repeat(50, 1), top_k=4)
    assert (experts == torch.tensor([1, 3, 0, 2])).all()


@pytest.mark.parametrize("gate", [moe_gate_softmax, moe_gate_sigmoid])
def test_gates_return_float32_and_take_no_rows(gate):
    for rows in (0, 1, 5):
        weights, experts = gate(numbers(rows, 6, dtype=torch.bfloat16), top_k=6)
        assert (weights.dtype, experts.dtype) == (torch.float32, torch.int64)
        assert weights.shape == experts.shape == (rows, 6)


@pytest.mark.parametrize("gate", [moe_gate_softmax, moe_gate_sigmoid])
def test_gates_check_their_inputs(gate):
    for top_k in (0, 5):
        with pytest.raises(ConfigError, match=f"top_k={top_k}; with 4 experts"):
            gate(torch.zeros(2, 4), top_k=top_k)
    with pytest.raises(ShapeError, match=r"logits \(4,\)"):
        gate(torch.zeros(4), top_k=1)
    with pytest.raises(ShapeError, match=r"bias \(3,\)"):
        moe_gate_sigmoid(torch.zeros(2, 4), top_k=1, bias_E=torch.zeros(3))


def test_rows_come_in_the_order_of_experts_then_tokens():
    x = torch.arange(3.0)[:, None]
    rows, slots, counts = moe_permute(x, torch.tensor([[2, 0], [0, 2], [2, 3]]), 5)
    assert rows.flatten().tolist() == [0, 1, 0, 1, 2, 2]
    assert slots.tolist() == [[2, 0], [1, 3], [4, 5]]
    assert counts.tolist() == [2, 0, 3, 1, 0]


@pytest.mark.parametrize("shape", [(7, 2), (0, 2), (1, 1), (5, 4)])
def test_permuting_and_back_is_the_weighted_sum(shape):
    x, weights = numbers(shape[0], 3), numbers(*shape).abs()
    experts = torch.randint(0, 4, shape, generator=torch.Generator().manual_seed(0))
    rows, slots, counts = moe_permute(x, experts, 4)
    assert rows.shape == (shape[0] * shape[1], 3)
    assert torch.equal(counts, torch.bincount(experts.flatten(), minlength=4))
    torch.testing.assert_close(rows[slots], x[:, None].expand(*shape, 3))
    torch.testing.assert_close(moe_unpermute(rows, slots, weights), x * weights.sum(1, keepdim=True))


def test_a_whole_layer_equals_a_loop_over_tokens_with_its_gradients():
    x, gate, weight = numbers(9, 4), numbers(4, 5, seed=1), numbers(5, 4, 3, seed=2)
    leaves = [t.requires_grad_() for t in (x, gate, weight)]
    weights, experts = moe_gate_softmax(x @ gate, top_k=2)
    rows, slots, counts = moe_permute(x, experts, 5)
    ours = moe_unpermute(grouped_matmul(rows, weight, counts), slots, weights)
    probs = (x @ gate).softmax(-1)
    plain = []
    for token in range(9):
        best = probs[token].topk(2)
        parts = [p * (x[token] @ weight[e]) for p, e in zip(best.values, best.indices, strict=True)]
        plain.append(sum(parts) / best.values.sum())
    plain = torch.stack(plain)
    torch.testing.assert_close(ours, plain)
    for got, expected in zip(
        *(torch.autograd.grad(out.square().sum(), leaves) for out in (ours, plain)), strict=True
    ):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("counts", [(3, 0, 4), (0, 0, 7), (7, 0, 0), (0, 0, 0)])
def test_experts_without_rows_get_a_gradient_of_zero(counts):
    x, weight = numbers(sum(counts), 4).requires_grad_(), numbers(3, 4, 2).requires_grad_()
    out = grouped_matmul(x, weight, torch.tensor(counts))
    assert out.shape == (sum(counts), 2)
    out.sum().backward()
    for expert, count in enumerate(counts):
        assert bool(weight.grad[expert].any()) == (count > 0)
    assert x.grad.shape == x.shape


def test_no_experts_and_no_rows():
    out = grouped_matmul(torch.zeros(0, 4), torch.zeros(0, 4, 2), torch.zeros(0).long())
    assert out.shape == (0, 2)


def test_a_tokens_gradients_are_added_up_before_they_are_rounded():
    # In bfloat16 256 + 1 is 256: one rounding at the end keeps what a rounding after each term loses.
    x = torch.zeros(1, 1, dtype=torch.bfloat16, requires_grad=True)
    rows, slots, _ = moe_permute(x, torch.tensor([[0, 1, 2, 3]]), 4)
    rows[slots[0]].backward(torch.tensor([[256.0], [1.0], [1.0], [2.0]]).bfloat16())
    assert x.grad.item() == 260
    y = torch.tensor([[256.0], [1.0], [1.0], [2.0]]).bfloat16()
    assert moe_unpermute(y, torch.arange(4)[None], torch.ones(1, 4)).item() == 260


def test_grouped_matmul_multiplies_in_the_narrower_format_and_returns_that_of_x():
    x, weight, counts = numbers(5, 4, dtype=torch.float32), numbers(2, 4, 3, dtype=torch.bfloat16), [2, 3]
    out = grouped_matmul(x, weight, torch.tensor(counts))
    assert out.dtype == torch.float32
    assert torch.equal(out.bfloat16(), grouped_matmul(x.bfloat16(), weight, torch.tensor(counts)))


def test_shapes_are_checked():
    x = torch.zeros(6, 4)
    with pytest.raises(ShapeError, match=r"x \(6, 4\) and experts \(5, 2\)"):
        moe_permute(x, torch.zeros(5, 2).long(), 3)
    with pytest.raises(ShapeError, match=r"slots \(2, 2\)"):
        moe_unpermute(x, torch.zeros(2, 2).long(), torch.zeros(2, 2))
    with pytest.raises(ShapeError, match=r"weight \(2, 3, 5\)"):
        grouped_matmul(x, torch.zeros(2, 3, 5), torch.tensor([3, 3]))
    for counts in ([3, 2], [6], [7, -1]):
        with pytest.raises(ShapeError, match="its share of 6 rows"):
            grouped_matmul(x, torch.zeros(2, 4, 5), torch.tensor(counts))
