import pytest
import torch

from portable.model.auxiliary import Auxiliary
from portable.model.config import Gate, MoeConfig
from portable.model.moe.layer import Moe, load_name

SHAPE = {"num_experts": 4, "top_k": 2, "intermediate_size": 6}


def layer_of(kernels, **changes):
    moe = Moe(8, MoeConfig(**(SHAPE | changes)), kernels, 3, Auxiliary())
    for name, parameter in moe.named_parameters():
        stream = torch.Generator().manual_seed(len(name))
        torch.nn.init.normal_(parameter, std=0.5, generator=stream)
    return moe


def inputs():
    return torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()


def test_shared_experts_meet_every_token(kernels):
    moe = layer_of(kernels, num_shared_experts=2, gate=Gate.sigmoid)
    assert moe.shared.up.weight.shape == (12, 8)
    x = inputs()
    without = layer_of(kernels, gate=Gate.sigmoid)
    without.load_state_dict({k: v for k, v in moe.state_dict().items() if "shared" not in k})
    torch.testing.assert_close(moe(x), without(x) + moe.shared(x))


def test_losses_reach_the_router_and_are_reported(kernels):
    moe = layer_of(kernels, aux_loss_coef=0.5, router_z_loss_coef=0.25)
    moe.auxiliary.scale = 0.1
    x = inputs()
    (moe(x).sum() * 0).backward()  # only what hangs on the output is left
    assert moe.router.weight.grad.abs().sum() > 0
    assert all((p.grad == 0).all() for p in moe.experts.parameters())
    sums = moe.auxiliary.take()
    assert set(sums) == {"moe_aux_loss", "router_z_loss", load_name(3)}
    assert sums[load_name(3)].sum() == 2 * 10
    gradient = moe.router.weight.grad.clone()
    moe.router.weight.grad = None
    logits = moe.router(x.flatten(0, 1))
    z = 0.25 * logits.logsumexp(-1).square().sum()
    balance = sum(
        # with f constant, each row's loss is the sum of f times the scores
        (4 / (2 * 5) * torch.bincount(row.topk(2).indices.flatten(), minlength=4) * row.softmax(-1)).sum()
        for row in logits.view(2, 5, 4)
    )
    (0.1 * (z + 0.5 * balance)).backward()
    torch.testing.assert_close(gradient, moe.router.weight.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(sums["moe_aux_loss"], 0.5 * balance.detach())


@pytest.mark.parametrize("gate", list(Gate))
def test_evaluation_counts_nothing(kernels, gate):
    moe = layer_of(kernels, gate=gate, aux_loss_coef=0.5).eval()
    moe(inputs()).sum().backward()
    assert moe.auxiliary.take() == {}
