import math

import pytest
import torch

from portable.core.errors import ConfigError, ShapeError
from portable.kernel.reference import log_prob
from portable.kernel.reference.log_prob import gather_log_probs, token_log_probs


def inputs(tokens=10, hidden=4, vocab=7, dtype=torch.float64):
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, hidden, generator=stream, dtype=dtype).requires_grad_()
    weight = torch.randn(vocab, hidden, generator=stream, dtype=dtype).requires_grad_()
    return x, weight, torch.randint(0, vocab, (tokens,), generator=stream)


def plain(x, weight, targets, temperature=1.0):
    return (x @ weight.T / temperature).log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)


@pytest.fixture(params=[3, 10, 256])
def chunk_rows(request, monkeypatch):
    monkeypatch.setattr(log_prob, "CHUNK_ROWS", request.param)


def test_formula_by_hand():
    x, weight = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double()
    out = token_log_probs(x, weight, torch.tensor([0]), temperature=2.0)
    expected = 0.5 - math.log(math.exp(0.5) + math.exp(1.0))
    torch.testing.assert_close(out, torch.tensor([expected]).double())


@pytest.mark.usefixtures("chunk_rows")
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_values_and_gradients_equal_plain_autograd(temperature):
    x, weight, targets = inputs()
    scale = torch.linspace(-1, 1, 10).double()
    results = []
    for function in (plain, lambda *a: token_log_probs(*a[:3], temperature=a[3])):
        out = function(x, weight, targets, temperature)
        results.append((out, *torch.autograd.grad((out * scale).sum(), (x, weight))))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.usefixtures("chunk_rows")
def test_gradcheck():
    x, weight, targets = inputs()
    assert torch.autograd.gradcheck(lambda a, b: token_log_probs(a, b, targets, temperature=0.7), (x, weight))


@pytest.mark.parametrize("frozen", [0, 1])
def test_frozen_inputs_get_no_gradient(frozen):
    x, weight, targets = inputs()
    (x, weight)[frozen].requires_grad_(False)
    token_log_probs(x, weight, targets).sum().backward()
    assert (x, weight)[frozen].grad is None
    assert (x, weight)[1 - frozen].grad is not None


def test_large_logits_stay_finite():
    x = torch.full((1, 1), 1e4, requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0]])
    out = token_log_probs(x, weight, torch.tensor([1]))
    out.sum().backward()
    torch.testing.assert_close(out, torch.tensor([-2e4]))
    assert x.grad.isfinite().all()


def test_no_tokens_give_an_empty_result():
    x, weight, targets = inputs(tokens=0)
    out = token_log_probs(x, weight, targets)
    assert out.shape == (0,)
    out.sum().backward()
    assert torch.equal(weight.grad, torch.zeros_like(weight))


def test_16_bit_operands_give_float32_results_and_16_bit_gradients():
    x, weight, targets = inputs(dtype=torch.float32)
    half_x, half_weight = (t.detach().bfloat16().requires_grad_() for t in (x, weight))
    out = token_log_probs(half_x, half_weight, targets)
    out.sum().backward()
    assert (out.dtype, half_x.grad.dtype, half_weight.grad.dtype) == (torch.float32, *[torch.bfloat16] * 2)
    torch.testing.assert_close(out, plain(x, weight, targets), rtol=0.05, atol=0.05)


def test_autocast_multiplies_in_its_format_and_returns_gradients_in_the_parameters():
    x, weight, targets = inputs(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = token_log_probs(x, weight, targets)
    expected = token_log_probs(x.bfloat16(), weight.bfloat16(), targets)
    assert torch.equal(out, expected)
    out.sum().backward()
    assert x.grad.dtype == weight.grad.dtype == torch.float32


def test_full_logits_are_never_alive(monkeypatch):
    monkeypatch.setattr(log_prob, "CHUNK_ROWS", 8)
    largest = []
    real = log_prob._logits

    def spy(*args):
        logits = real(*args)
        largest.append(logits.shape[0])
        return logits

    monkeypatch.setattr(log_prob, "_logits", spy)
    x, weight, targets = inputs(tokens=50)
    token_log_probs(x, weight, targets).sum().backward()
    assert max(largest) == 8
    assert len(largest) == 2 * 7


def test_second_derivatives_are_refused_rather_than_wrong():
    x, weight, targets = inputs()
    loss = token_log_probs(x, weight, targets).square().sum()
    (first,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_shapes_and_temperature_are_checked():
    x, weight, targets = inputs()
    with pytest.raises(ShapeError, match=r"\(N, D\), \(V, D\) and \(N,\)"):
        token_log_probs(x, weight, targets[:-1])
    with pytest.raises(ShapeError, match="token_log_probs"):
        token_log_probs(x, weight[:, :-1], targets)
    for temperature in (0.0, -1.0):
        with pytest.raises(ConfigError, match=f"temperature={temperature}"):
            token_log_probs(x, weight, targets, temperature=temperature)


def test_ignored_targets_have_log_prob_zero_and_no_gradient():
    x, weight, targets = inputs()
    some = targets.clone()
    some[[0, 3, 4, 9]] = -100
    out = token_log_probs(x, weight, some)
    assert (out[[0, 3, 4, 9]] == 0).all()
    kept = [1, 2, 5, 6, 7, 8]
    torch.testing.assert_close(out[kept], plain(x, weight, targets)[kept])
    grads = torch.autograd.grad(out.sum(), [x, weight])
    wanted = torch.autograd.grad(plain(x[kept], weight, targets[kept]).sum(), [x, weight])
    for got, expected in zip(grads, wanted, strict=True):
        torch.testing.assert_close(got, expected)


def test_with_every_target_ignored_the_loss_is_zero_and_differentiable():
    x, weight, targets = inputs()
    out = token_log_probs(x, weight, torch.full_like(targets, -1))
    assert torch.equal(out, torch.zeros(10, dtype=out.dtype))
    grads = torch.autograd.grad(out.sum(), [x, weight])
    assert all((grad == 0).all() for grad in grads)


def gathered(**changes):
    stream = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 9, generator=stream, dtype=torch.float64)
    targets = torch.randint(0, 9, (6,), generator=stream)
    for row, value in changes.items():
        logits[int(row.removeprefix("row_"))] = value
    return logits.requires_grad_(), targets


def test_gathered_log_probs_and_their_gradients_are_those_of_log_softmax():
    logits, targets = gathered()
    scale = torch.linspace(-1, 1, 6).double()
    results = []
    for out in (
        gather_log_probs(logits, targets, temperature=0.6),
        (logits / 0.6).log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1),
    ):
        results.append((out, *torch.autograd.grad(out, logits, scale)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


def test_gathered_rows_that_are_ignored_give_nothing_whatever_their_logits():
    logits, targets = gathered(row_0=torch.nan, row_1=-torch.inf)
    targets[:2] = torch.tensor([-1, -100])
    out = gather_log_probs(logits, targets)
    (grad,) = torch.autograd.grad(out.sum(), logits)
    assert (out[:2] == 0).all()
    assert (grad[:2] == 0).all()
    assert grad[2:].isfinite().all()


def test_gathered_log_probs_of_the_impossible():
    logits, targets = gathered(row_0=-torch.inf)
    logits = logits.detach()
    logits[1, targets[1]] = -torch.inf
    out = gather_log_probs(logits, targets)
    assert out[0].isnan()
    assert out[1] == -torch.inf
    assert out[2:].isfinite().all()


def test_gathered_16_bit_logits_give_float32():
    logits, targets = gathered()
    assert gather_log_probs(logits.bfloat16(), targets).dtype == torch.float32


def test_gathered_inputs_are_checked():
    logits, targets = gathered()
    with pytest.raises(ShapeError, match=r"gather_log_probs: .* \(N, V\) and \(N,\)"):
        gather_log_probs(logits, targets[:-1])
    with pytest.raises(ConfigError, match="gather_log_probs: temperature=0"):
        gather_log_probs(logits, targets, temperature=0)
