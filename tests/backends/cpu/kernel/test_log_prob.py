import pytest
import torch

from backends.cpu.kernel import log_prob
from backends.cpu.kernel.cross_entropy import token_log_probs as native
from backends.cpu.kernel.log_prob import token_log_probs
from portable.core.errors import ConfigError, ShapeError
from portable.kernel.reference.log_prob import token_log_probs as reference


def inputs(tokens=600, dtype=torch.float32):  # three chunks, the last not full
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, 4, generator=stream).to(dtype).requires_grad_()
    weight = torch.randn(7, 4, generator=stream).to(dtype).requires_grad_()
    return x, weight, torch.randint(0, 7, (tokens,), generator=stream)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("tokens", [600, 256, 1, 0])
def test_values_and_gradients_equal_the_reference_in_float64(tokens, temperature):
    x, weight, targets = inputs(tokens)
    doubles = [t.detach().double().requires_grad_() for t in (x, weight)]
    pull = torch.linspace(-1, 1, tokens)
    ours = token_log_probs(x, weight, targets, temperature=temperature)
    exact = reference(*doubles, targets, temperature=temperature)
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-6)
    (ours * pull).sum().backward()
    (exact * pull).sum().backward()
    for mine, right in zip((x, weight), doubles, strict=True):
        torch.testing.assert_close(mine.grad.double(), right.grad, rtol=1e-5, atol=1e-4)


def test_gradcheck():
    x, weight, targets = inputs(5, torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: token_log_probs(a, b, targets, temperature=0.7), (x, weight))


@pytest.mark.parametrize("frozen", [0, 1])
def test_frozen_inputs_get_no_gradient(frozen):
    x, weight, targets = inputs()
    (x, weight)[frozen].requires_grad_(False)
    token_log_probs(x, weight, targets).sum().backward()
    assert (x, weight)[frozen].grad is None
    assert (x, weight)[1 - frozen].grad.abs().sum() > 0


def test_the_graph_may_be_walked_twice():
    x, weight, targets = inputs()
    loss = token_log_probs(x, weight, targets).sum()
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    (second,) = torch.autograd.grad(loss, x)
    assert torch.equal(first, second)


@pytest.mark.parametrize("kernel", [token_log_probs, native])
def test_beyond_the_limit_nothing_is_kept_and_all_is_the_same(monkeypatch, kernel):
    x, weight, targets = inputs()
    results = []
    for limit in (600 * 7, 600 * 7 - 1):
        monkeypatch.setattr(log_prob, "MAX_KEPT_VALUES", limit)
        out = kernel(x, weight, targets)
        num_saved = len(out.grad_fn.saved_tensors)
        results.append((num_saved, out, *torch.autograd.grad(out.sum(), (x, weight))))
    assert [result[0] for result in results] == [3 + 3, 3]
    assert all(torch.equal(a, b) for a, b in zip(*(result[1:] for result in results), strict=True))


def test_inference_keeps_nothing():
    x, weight, targets = inputs()
    with torch.no_grad():
        out = token_log_probs(x, weight, targets)
    assert out.grad_fn is None
    torch.testing.assert_close(out, reference(x, weight, targets).detach())


def test_autocast_takes_the_reference_and_stays_in_float32():
    x, weight, targets = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, expected = token_log_probs(x, weight, targets), reference(x, weight, targets)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, expected)


def test_inputs_are_checked_as_by_the_reference():
    x, weight, targets = inputs()
    with pytest.raises(ShapeError, match="token_log_probs"):
        token_log_probs(x, weight, targets[:-1])
    with pytest.raises(ConfigError, match="temperature=0"):
        token_log_probs(x, weight, targets, temperature=0.0)


def test_ignored_targets_are_skipped_as_by_the_reference():
    from portable.kernel.reference import log_prob as reference

    stream = torch.Generator().manual_seed(3)
    x = torch.randn(40, 8, generator=stream).requires_grad_()
    weight = torch.randn(11, 8, generator=stream).requires_grad_()
    targets = torch.randint(0, 11, (40,), generator=stream)
    targets[::3] = -100
    results = []
    for kernel in (token_log_probs, reference.token_log_probs):
        out = kernel(x, weight, targets)
        results.append((out, *torch.autograd.grad((out * torch.linspace(0, 1, 40)).sum(), [x, weight])))
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted)
    assert (results[0][0][::3] == 0).all()
