"""Weight gradients that come late, and are the same."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from portable.parallel.pipeline.deferred import WeightGradients


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 3, bias=False))


def inputs() -> Tensor:
    return torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()


@pytest.mark.parametrize("recomputes", [False, True])
def test_matrices_wait_and_everything_else_does_not(recomputes: bool) -> None:
    plain, own = model(), model()
    x, y = inputs(), inputs()
    plain(x).square().sum().backward()
    with WeightGradients() as late:
        out = checkpoint(own, y, use_reentrant=False) if recomputes else own(y)
        loss = out.square().sum()
        with late.collect() as later:
            loss.backward()
    torch.testing.assert_close(y.grad, x.grad)
    assert [name for name, item in own.named_parameters() if item.grad is None] == ["0.weight", "3.weight"]
    assert len(later) == 2
    for compute in later:
        compute()
    for its, mine in zip(plain.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-6, atol=1e-7)


def test_without_putting_off_gradients_come_at_once_and_add_up() -> None:
    plain, own = model(), model()
    with WeightGradients():
        for _ in range(2):
            own(inputs()).sum().backward()
    for _ in range(2):
        plain(inputs()).sum().backward()
    for its, mine in zip(plain.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad)


def test_narrow_formats_are_torchs_own() -> None:
    plain, own = model(), model()
    with torch.autocast("cpu", torch.bfloat16):
        wanted = plain(inputs()).float().square().sum()
    wanted.backward()
    with WeightGradients() as late:
        with torch.autocast("cpu", torch.bfloat16):
            loss = own(inputs()).float().square().sum()
        with late.collect() as later:
            loss.backward()
    for compute in later:
        compute()
    assert torch.equal(loss, wanted)
    for its, mine in zip(plain.parameters(), own.parameters(), strict=True):
        assert torch.equal(mine.grad, its.grad)


def test_what_is_no_parameter_of_its_own_gets_its_gradient_at_once() -> None:
    weight = nn.Parameter(torch.ones(4, 5))
    frozen = nn.Parameter(torch.ones(4, 5), requires_grad=False)
    with WeightGradients() as late:
        loss = F.linear(inputs(), weight[:2]).sum() + F.linear(inputs(), frozen).sum()
        with late.collect() as later:
            loss.backward()
    assert not later
    assert weight.grad is not None
    assert frozen.grad is None


def test_activations_that_no_weight_needs_are_let_go_with_the_input_gradient() -> None:
    own, kept = model(), []

    def remember(module: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
        kept.append(weakref.ref(out.untyped_storage()))

    own[1].register_forward_hook(remember)  # tanh's input, which nothing but its own backward pass needs
    with WeightGradients() as late:
        loss = own(inputs()).sum()
        with late.collect() as later:
            loss.backward()
    del loss
    gc.collect()
    assert later
    assert kept[0]() is None


def test_the_innermost_mode_is_current() -> None:
    assert WeightGradients.current() is None
    with WeightGradients() as outer, WeightGradients() as inner:
        assert outer is not inner
        assert WeightGradients.current() is inner
    assert WeightGradients.current() is None
