"""What is saved of a run, and that it is enough."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from portable.core.random import seed_host
from portable.parallel.whole import trained_buffers
from portable.train.checkpoint.manifest import json_part
from portable.train.checkpoint.state import (
    apply_host_state,
    load_host_state,
    load_tensor_state,
    pack_host_state,
    tensor_state,
    write_host_state,
)
from portable.train.config import AdamWConfig, MuonConfig, OptimConfig
from portable.train.next_token import next_token_loss
from portable.train.trainer import Trainer
from tests.portable.train.support import RowSource, TinyModel, make_runtime, train_config, workspace


def stepped(config: OptimConfig, seed: int = 0, steps: int = 2, model: TinyModel | None = None) -> Trainer:
    trainer = Trainer(
        model or TinyModel(seed),
        next_token_loss,
        RowSource(1, 1),
        train_config(9, optim=config),
        make_runtime(),
        workspace(Path()),
    )
    for _ in range(steps):
        trainer.train_step(trainer.source.next_batches())
    return trainer


@pytest.mark.parametrize("config", [AdamWConfig(), MuonConfig()], ids=lambda config: config.name)
def test_tensors_put_into_another_model_make_it_the_same(config: OptimConfig):
    first = stepped(config)
    saved = {name: found.data.clone() for name, found in tensor_state(first.model).items()}
    other = stepped(config, seed=1, steps=0)
    load_tensor_state(other.model, saved)
    for twin in (first, other):
        twin.source.next_row = 7
        twin.train_step(twin.source.next_batches())
    for own, copied in zip(first.module.parameters(), other.module.parameters(), strict=True):
        assert torch.equal(own, copied)


def test_keys_are_the_same_before_and_after_the_first_step():
    before = tensor_state(stepped(AdamWConfig(), steps=0).model)
    after = tensor_state(stepped(AdamWConfig()).model)
    assert before.keys() == after.keys()
    assert "optimizer/embed.weight/exp_avg" in after


def test_asking_for_the_state_does_not_move_the_weights():
    trainer = stepped(MuonConfig(weight_decay=0.5), steps=0)
    before = {name: tensor.clone() for name, tensor in trainer.module.state_dict().items()}
    tensor_state(trainer.model)
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.module.state_dict().items())
    assert trainer.optimizer.param_groups[0]["lr"] == MuonConfig().lr


def test_frozen_weights_are_not_saved():
    model = TinyModel()
    model.embed.weight.requires_grad_(False)
    saved = tensor_state(stepped(AdamWConfig(), model=model).model)
    assert not any("embed.weight" in name for name in saved)
    assert "model/head.weight" in saved


def test_buffers_that_belong_to_the_model_are_saved_and_tables_are_not():
    model = TinyModel()
    model.blocks[1].register_buffer("bias", torch.arange(3.0))
    model.register_buffer("table", torch.ones(3), persistent=False)
    assert [name for name, _ in trained_buffers([model])] == ["blocks.1.bias"]
    trainer = stepped(AdamWConfig(), model=model)
    saved = {name: found.data.clone() for name, found in tensor_state(trainer.model).items()}
    assert saved["buffer/blocks.1.bias"].tolist() == [0.0, 1.0, 2.0]
    model.blocks[1].bias.zero_()
    load_tensor_state(trainer.model, saved)
    assert model.blocks[1].bias.tolist() == [0.0, 1.0, 2.0]


def saved_host(path: Path, source: RowSource, counters: dict[str, float]) -> Path:
    write_host_state(path / "host.pt", pack_host_state(source, make_runtime().device, counters))
    return path / "host.pt"


def test_host_state_restores_position_and_every_random_stream(tmp_path: Path):
    device, source = make_runtime().device, RowSource(2, 2)
    seed_host(4)
    source.next_batches()
    file = saved_host(tmp_path, source, {"tokens_seen": 48.0})
    expected = (random.random(), np.random.rand(), float(torch.rand(())))
    source.next_batches()
    state = load_host_state(file)
    apply_host_state(state, source, device, same_layout=True)
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == expected
    assert source.next_row == 4
    assert state["counters"] == {"tokens_seen": 48.0}


def test_another_layout_takes_the_position_but_not_the_streams(tmp_path: Path):
    device, source = make_runtime().device, RowSource(2, 2)
    file = saved_host(tmp_path, source, {})
    seed_host(9)
    expected = torch.get_rng_state()
    source.next_batches()
    apply_host_state(load_host_state(file), source, device, same_layout=False)
    assert source.next_row == 0
    assert torch.equal(torch.get_rng_state(), expected)


def test_a_host_file_that_carries_code_is_refused(tmp_path: Path):
    class Surprise:
        def __reduce__(self):
            return (print, ("boo",))

    torch.save({"source": Surprise()}, tmp_path / "host.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        load_host_state(tmp_path / "host.pt")


def test_what_json_cannot_hold_is_named_by_its_type():
    state = {"next": 3, "parts": [(1, 2.5), None], "rng": torch.ones(2)}
    assert json_part(state) == {"next": 3, "parts": [[1, 2.5], None], "rng": "(Tensor)"}
