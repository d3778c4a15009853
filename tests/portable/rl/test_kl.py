"""The estimators against the exact divergence on a vocabulary small enough to sum over."""

import pytest
import torch

from portable.rl.kl import k1, k2, k3

P = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05], dtype=torch.float64)
Q = torch.tensor([0.3, 0.3, 0.2, 0.1, 0.1], dtype=torch.float64)
EXACT = float((P * (P / Q).log()).sum())


@pytest.mark.parametrize("estimator", [k1, k3])
def test_the_expectation_is_the_divergence(estimator) -> None:
    assert float((P * estimator(P.log(), Q.log())).sum()) == pytest.approx(EXACT, rel=1e-12)


def test_k2_is_close_but_biased() -> None:
    expectation = float((P * k2(P.log(), Q.log())).sum())
    assert expectation == pytest.approx(EXACT, rel=0.3)
    assert expectation != pytest.approx(EXACT, rel=1e-3)


def test_k3_is_never_negative_and_k1_can_be() -> None:
    assert (k3(P.log(), Q.log()) >= 0).all()
    assert (k1(P.log(), Q.log()) < 0).any()


def test_the_gradient_of_k2_is_that_of_the_divergence() -> None:
    logits = P.log().clone().requires_grad_()
    exact = (logits.log_softmax(0).exp() * (logits.log_softmax(0) - Q.log())).sum()
    (wanted,) = torch.autograd.grad(exact, logits)
    estimate = (P * k2(logits.log_softmax(0), Q.log())).sum()
    (got,) = torch.autograd.grad(estimate, logits)
    assert torch.allclose(got, wanted, atol=1e-12)


def test_all_are_zero_for_equal_policies() -> None:
    for estimator in (k1, k2, k3):
        assert torch.equal(estimator(P.log(), P.log()), torch.zeros_like(P))
