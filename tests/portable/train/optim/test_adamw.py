import pytest
import torch
from torch import optim

from portable.train.config import AdamWConfig
from portable.train.optim import adamw
from portable.train.optim.adamw import build_adamw
from tests.portable.train.support import TinyModel


def decay_of(model: TinyModel, **settings: float) -> dict[str, float]:
    optimizer = build_adamw(model, AdamWConfig(**settings))
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
    optimizer = build_adamw(model, AdamWConfig(lr=0.01, weight_decay=0.5))
    before = model.head.weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, -2.0)
    optimizer.step()
    torch.testing.assert_close(
        model.head.weight.detach(), before - 0.01 * (-1 + 0.5 * before), rtol=0, atol=1e-6
    )


def test_the_fused_pass_is_used_here():
    assert build_adamw(TinyModel(), AdamWConfig()).parts[0].defaults["fused"] is True


def test_a_device_without_it_gets_the_plain_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    plain = optim.AdamW

    def picky(groups, *, fused=None, **settings):
        if fused:
            raise RuntimeError("`fused=True` requires all the params to be on supported devices")
        return plain(groups, **settings)

    monkeypatch.setattr(adamw.torch_optim, "AdamW", picky)
    with caplog.at_level("INFO", logger="portable.train.optim.adamw"):
        optimizer = build_adamw(TinyModel(), AdamWConfig())
    assert not optimizer.parts[0].defaults["fused"]
    assert "AdamW is not fused on this device" in caplog.text
