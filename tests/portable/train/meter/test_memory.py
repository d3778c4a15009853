"""Bytes by class: those of the formulas, shared storages once, and a peak that is split without a rest."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from portable.device.protocol import Memory
from portable.train.config import AdamWConfig
from portable.train.meter.memory import ModelMemory, storage_bytes
from portable.train.next_token import next_token_loss
from portable.train.trainer import Trainer
from tests.portable.train.support import RowSource, TinyModel, make_runtime, train_config, workspace


@dataclass
class Device:
    """Keeps the figures that a test sets."""

    used: int = 5000
    peak: int | None = 0
    resets: int = 0

    def memory(self, index: int) -> Memory:
        return Memory(10_000, 10_000 - self.used, self.used, self.peak)

    def reset_peak_memory(self) -> None:
        self.resets += 1


@pytest.fixture
def trainer(tmp_path) -> Trainer:
    config = train_config(4, optim=AdamWConfig(lr=0.01))
    return Trainer(TinyModel(), next_token_loss, RowSource(2, 2), config, make_runtime(), workspace(tmp_path))


def meter(trainer: Trainer, device: Device) -> ModelMemory:
    return ModelMemory(trainer.model.strategy, trainer.optimizer, device, 0)


def test_states_have_the_bytes_of_the_formula(trainer: Trainer):
    size = 4 * sum(parameter.numel() for parameter in trainer.module.parameters())
    memory = meter(trainer, device := Device())
    trainer._memory = memory
    trainer.train_step(trainer.source.next_batches())
    device.peak = 5000 + 3 * size + 700  # 5000 were in use before, the parameters among them
    values = memory.read()
    assert values["memory_parameters_bytes"] == values["memory_gradients_bytes"] == size
    num_tensors = len(list(trainer.module.parameters()))
    assert values["memory_optimizer_bytes"] == 2 * size + 4 * num_tensors  # two moments, and the steps
    assert values["memory_peak_bytes"] == device.peak
    rest = device.peak - 4 * size - 4 * num_tensors - (5000 - size)
    assert values["memory_activations_bytes"] == max(0, rest)
    assert device.resets == 2


def test_without_a_peak_activations_are_unknown(trainer: Trainer):
    memory = meter(trainer, Device(peak=None))
    assert memory.read() == {"memory_peak_bytes": None, "memory_activations_bytes": None}


def test_a_storage_counts_once_and_whole():
    whole = torch.zeros(10, dtype=torch.bfloat16)
    assert storage_bytes([whole[:3], whole[3:], nn.Parameter(whole)]) == 20
    assert storage_bytes([]) == 0
