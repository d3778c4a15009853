import pytest
import torch
from torch.utils.checkpoint import checkpoint

from portable.model.auxiliary import Auxiliary


@pytest.fixture
def leaf():
    return torch.tensor([1.0, 2.0, 3.0], requires_grad=True)


def test_output_is_unchanged_and_the_loss_gets_the_scale(leaf):
    auxiliary = Auxiliary()
    auxiliary.scale = 0.25
    out = auxiliary.attach(leaf * 2, "square", leaf.square().sum())
    assert torch.equal(out, leaf * 2)
    out.sum().backward()
    torch.testing.assert_close(leaf.grad, 2 + 0.25 * 2 * leaf.detach())


@pytest.mark.parametrize("reentrant", [True, False])
def test_sums_count_once_under_recomputation(leaf, reentrant):
    auxiliary = Auxiliary()

    def layer(x):
        return auxiliary.attach(x * 2, "square", x.square().sum())

    for _ in range(2):
        checkpoint(layer, leaf, use_reentrant=reentrant).sum().backward()
    assert auxiliary.take()["square"].item() == 2 * 14.0
    assert auxiliary.take() == {}
    torch.testing.assert_close(leaf.grad, 2 * (2 + 2 * leaf.detach()))


def test_counts_need_no_gradient(leaf):
    auxiliary = Auxiliary()
    auxiliary.attach(leaf * 2, "load", torch.tensor([3.0, 1.0])).sum().backward()
    assert auxiliary.take()["load"].tolist() == [3.0, 1.0]


def test_nothing_is_kept_where_no_gradient_is_taken(leaf):
    auxiliary = Auxiliary()
    with torch.no_grad():
        assert auxiliary.attach(leaf, "x", leaf.sum()) is leaf
    frozen = leaf.detach()
    assert auxiliary.attach(frozen, "x", frozen.sum()) is frozen
    assert auxiliary.take() == {}
