from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from portable.core.random import seed_host
from portable.kernel.registry import KernelSet
from portable.train.checkpoint.state import (
    apply_host_state,
    load_host_state,
    load_tensor_state,
    save_host_state,
    shape_digest,
    tensor_state,
)
from portable.train.config import AdamWConfig, MuonConfig, OptimConfig
from portable.train.next_token import next_token_loss
from portable.train.optim.build import build_optimizer
from tests.portable.train.support import RowSource, TinyModel, make_runtime, rows_to_batch

KERNELS = KernelSet("cpu", "fp32")


def stepped(config: OptimConfig, seed: int = 0, steps: int = 2):
    model = TinyModel(seed)
    optimizer = build_optimizer(model, config, KERNELS)
    for step in range(steps):
        next_token_loss(model, rows_to_batch([step])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


@pytest.mark.parametrize("config", [AdamWConfig(), MuonConfig()], ids=lambda config: config.name)
def test_tensors_put_into_another_model_make_it_the_same(config: OptimConfig):
    model, optimizer = stepped(config)
    saved = {
        part: {k: v.clone() for k, v in tensors.items()}
        for part, tensors in tensor_state(model, optimizer).items()
    }
    other, other_optimizer = stepped(config, seed=1, steps=0)
    load_tensor_state(other, other_optimizer, saved)
    for twin, owner in ((model, optimizer), (other, other_optimizer)):
        next_token_loss(twin, rows_to_batch([7])).loss.backward()
        owner.step()
    for own, copied in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(own, copied)


def test_keys_are_the_same_before_and_after_the_first_step():
    before = tensor_state(*stepped(AdamWConfig(), steps=0))
    after = tensor_state(*stepped(AdamWConfig()))
    assert {part: set(tensors) for part, tensors in before.items()} == {
        part: set(tensors) for part, tensors in after.items()
    }
    assert "embed.weight/exp_avg" in after["optimizer"]


def test_asking_for_the_state_does_not_move_the_weights():
    model, optimizer = stepped(MuonConfig(weight_decay=0.5), steps=0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensor_state(model, optimizer)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert optimizer.param_groups[0]["lr"] == MuonConfig().lr


def test_frozen_weights_are_not_saved():
    model = TinyModel()
    model.embed.weight.requires_grad_(False)
    saved = tensor_state(model, build_optimizer(model, AdamWConfig(), KERNELS))
    assert "embed.weight" not in saved["model"]
    assert "head.weight" in saved["model"]


def test_the_digest_tells_models_and_optimisers_apart():
    def digest(model: TinyModel, config: OptimConfig) -> str:
        return shape_digest(model, build_optimizer(model, config, KERNELS))

    own = digest(TinyModel(), AdamWConfig())
    assert own == digest(TinyModel(seed=3), AdamWConfig(lr=0.5))
    assert own != digest(TinyModel(num_blocks=3), AdamWConfig())
    assert own != digest(TinyModel(), MuonConfig())


def test_host_state_restores_position_and_every_random_stream(tmp_path: Path):
    device, source = make_runtime().device, RowSource(2, 2)
    seed_host(4)
    source.next_batches()
    save_host_state(tmp_path / "host.pt", source, device, {"tokens_seen": 48.0})
    expected = (random.random(), np.random.rand(), float(torch.rand(())))
    source.next_batches()
    state = load_host_state(tmp_path / "host.pt")
    apply_host_state(state, source, device, same_rank=True)
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == expected
    assert source.next_row == 4
    assert state["counters"] == {"tokens_seen": 48.0}


def test_another_rank_takes_the_position_but_not_the_streams(tmp_path: Path):
    device, source = make_runtime().device, RowSource(2, 2)
    save_host_state(tmp_path / "host.pt", source, device, {})
    seed_host(9)
    expected = torch.get_rng_state()
    source.next_batches()
    apply_host_state(load_host_state(tmp_path / "host.pt"), source, device, same_rank=False)
    assert source.next_row == 0
    assert torch.equal(torch.get_rng_state(), expected)


def test_a_host_file_that_carries_code_is_refused(tmp_path: Path):
    class Surprise:
        def __reduce__(self):
            return (print, ("boo",))

    torch.save({"source": Surprise()}, tmp_path / "host.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        load_host_state(tmp_path / "host.pt")
