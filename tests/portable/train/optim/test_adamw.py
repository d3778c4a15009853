import pytest
import torch
from torch import optim

from portable.kernel.config import KernelConfig
from portable.kernel.registry import KernelSet
from portable.train.config import AdamWConfig
from tests.portable.train.optim.support import build
from tests.portable.train.support import TinyModel


def decay_of(model: TinyModel, **settings: float) -> dict[str, float]:
    optimizer = build(model, AdamWConfig(**settings))
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    return {name: decays[id(parameter)] for name, parameter in model.named_parameters()}


def test_only_matrices_decay():
    decays = decay_of(TinyModel(num_blocks=1), weight_decay=0.3)
    assert decays == {
        "embed.weight": 0.0,
        "blocks.0.norm.weight": 0.0,
        "blocks.0.norm.bias": 0.0,
        "blocks.0.inner.weight": 0.3,
        "blocks.0.inner.bias": 0.0,
        "head.weight": 0.3,
    }


def test_the_first_step_is_the_papers():
    """After one step the moments cancel: lr × (sign of the gradient + decay × weight)."""
    model = TinyModel()
    optimizer = build(model, AdamWConfig(lr=0.01, weight_decay=0.5))
    before = model.head.weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, -2.0)
    optimizer.step()
    torch.testing.assert_close(
        model.head.weight.detach(), before - 0.01 * (-1 + 0.5 * before), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("row", ["reference"])
def test_the_picked_kernel_computes_what_torch_does(row: str):
    """Five steps, one parameter without a gradient at first, beside torch's own AdamW."""
    ours, theirs = TinyModel(seed=3), TinyModel(seed=3)
    kernels = KernelSet("cpu", "fp32", KernelConfig(rows={"adamw": row}))
    optimizer = build(ours, AdamWConfig(lr=0.01, weight_decay=0.0), kernels)
    peer = optim.AdamW(theirs.parameters(), lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    for step in range(5):
        for (name, own), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            grad = torch.randn(own.shape, generator=generator)
            if step > 1 or name != "head.weight":
                own.grad, other.grad = grad, grad.clone()
        optimizer.step()
        peer.step()
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-7)
    assert optimizer.parts[0].state[ours.head.weight]["step"] == 3
