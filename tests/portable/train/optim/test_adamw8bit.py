"""AdamW in 8 bits: two bytes a parameter, and it learns as the one in 32 does."""

import pytest
import torch
from torch import nn

from portable.core.errors import ConfigError
from portable.train.config import AdamW8bitConfig, AdamWConfig, OptimConfig
from portable.train.meter.memory import storage_bytes
from portable.train.optim import adamw8bit
from tests.portable.train.optim.support import build
from tests.portable.train.support import TinyModel, rows_to_batch


def state_bytes(size: int, config: OptimConfig) -> int:
    model = nn.Linear(size, 256, bias=False)
    optimizer = build(model, config)
    optimizer.prepare()
    return storage_bytes(optimizer.parts[0].state[model.weight].values())


def test_moments_take_two_bytes_a_parameter_and_their_scales():
    num = 1024 * 256
    assert state_bytes(1024, AdamW8bitConfig()) == 2 * num + 2 * 4 * num // 256 + 4
    assert state_bytes(1024, AdamWConfig()) == 8 * num + 4
    assert state_bytes(8, AdamW8bitConfig()) == 8 * 8 * 256 + 4  # small ones are not worth it


def losses(config: OptimConfig, steps: int = 60) -> list[float]:
    model = TinyModel(seed=2)
    optimizer = build(model, config)
    found: list[float] = []
    for step in range(steps):
        batch = rows_to_batch(range(4 * (step % 5), 4 * (step % 5) + 4))
        log_probs = model(batch.input_ids_BT, batch.position_ids_BT, None, targets=batch.target_ids_BT)
        loss = -(log_probs * batch.loss_weight_BT).sum() / batch.num_terms
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    return found


def test_it_learns_as_the_one_in_32_bits_does():
    exact = losses(AdamWConfig(lr=0.02))
    eight = losses(AdamW8bitConfig(lr=0.02, min_size=1, block_size=64))
    assert exact[-1] < 0.8 * exact[0]
    assert eight != exact
    assert max(abs(a - b) for a, b in zip(eight, exact, strict=True)) < 0.05
    assert eight[-1] == pytest.approx(exact[-1], abs=0.02)


def test_the_first_step_is_exact():
    """Before the first step the moments are zero, which eight bits hold exactly."""
    weights = []
    for config in (AdamWConfig(lr=0.1), AdamW8bitConfig(lr=0.1, min_size=1)):
        model = nn.Linear(16, 16, bias=False)
        torch.nn.init.ones_(model.weight)
        optimizer = build(model, config)
        model.weight.grad = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
        optimizer.step()
        weights.append(model.weight.detach())
    assert torch.equal(*weights)


def test_a_parameter_is_updated_in_chunks_as_in_one(monkeypatch: pytest.MonkeyPatch):
    def trained() -> torch.Tensor:
        parameter = nn.Linear(40, 25, bias=False)  # 1000 numbers: blocks of 64, the last one short
        torch.nn.init.ones_(parameter.weight)
        optimizer = build(parameter, AdamW8bitConfig(lr=0.1, block_size=64))
        optimizer.parts[0].min_size = 1
        generator = torch.Generator().manual_seed(0)
        for _ in range(3):
            parameter.weight.grad = torch.randn(25, 40, generator=generator)
            optimizer.step()
        return parameter.weight.detach()

    whole = trained()
    monkeypatch.setattr(adamw8bit, "_HOST_CHUNK", 130)
    assert torch.equal(trained(), whole)


def test_a_part_that_lies_with_gaps_is_updated_too():
    weights = []
    for transposed in (False, True):
        start = torch.arange(12.0).view(3, 4)
        model = nn.Module()
        model.weight = nn.Parameter(start.T.contiguous().T if transposed else start)
        optimizer = build(model, AdamW8bitConfig(lr=0.1, min_size=1))
        model.weight.grad = torch.ones(3, 4)
        optimizer.step()
        weights.append(model.weight.detach())
    assert torch.equal(*weights)


def test_a_rare_row_does_not_explode():
    """One gradient of a millionth beside large ones: its second moment must not vanish before its first."""
    parameter = nn.Module()
    parameter.weight = nn.Parameter(torch.zeros(256))
    optimizer = build(parameter, AdamW8bitConfig(lr=0.01, min_size=1))
    gradient = torch.ones(256)
    gradient[0] = 1e-6
    for _ in range(20):
        parameter.weight.grad = gradient.clone()
        optimizer.step()
    assert parameter.weight.abs().max() < 0.01 * 20 * 1.01


@pytest.mark.parametrize("setting", ["block_size", "min_size"])
def test_senseless_sizes_are_refused(setting: str):
    with pytest.raises(ConfigError, match=f"optim.{setting}=0; use at least 1"):
        AdamW8bitConfig(**{setting: 0})
