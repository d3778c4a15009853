"""Small decoders and their rows, for tests that train the same model in several layouts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from portable.core.record import Batch
from portable.data.loader import BatchShape
from portable.model.config import Gate, ModelConfig, MoeConfig
from portable.model.decoder import Decoder
from portable.model.init import initial_value
from portable.parallel.placement import Extent
from portable.parallel.runtime import Runtime
from portable.testing.strategy.tiny import workspace
from portable.train.config import AdamWConfig, CheckpointConfig, TrainConfig
from portable.train.next_token import next_token_loss
from portable.train.trainer import Trainer

STEPS, ROWS, LENGTH = 4, 8, 24
SHAPE: dict[str, Any] = {
    "vocab_size": 37,  # odd, so that its parts are uneven
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_layers": 4,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "max_seq_len": 64,
}
MODELS = {
    "dense": ModelConfig(**SHAPE),
    "untied": ModelConfig(**SHAPE, tie_embeddings=False, qk_norm=False),
    "moe": ModelConfig(
        **SHAPE,
        moe=MoeConfig(
            num_experts=4,
            top_k=2,
            intermediate_size=24,
            num_shared_experts=1,
            gate=Gate.sigmoid,
            aux_loss_coef=0.01,
            bias_update_rate=0.01,  # the routers' biases are trained buffers
        ),
    ),
}


class Rows:
    """A source whose rows are made from their own numbers by ``make_batch``, whoever reads them.

    By default they have several documents, and some targets that are not learnt.
    """

    def __init__(self, shape: BatchShape, make_batch: Callable[[range], Batch] | None = None) -> None:
        self.shape = shape
        self.next_sample = 0
        self._make_batch = make_batch or _rows

    def next_batches(self) -> list[Batch]:
        batches = [self._make_batch(samples) for samples in self.shape.samples(self.next_sample)]
        self.next_sample += self.shape.global_batch_size
        return batches

    def state_dict(self) -> dict[str, Any]:
        return {"next_sample": self.next_sample}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.next_sample = state["next_sample"]


def _rows(samples: range) -> Batch:
    ids, weights, positions, bounds = [], [], [], [0]
    for place, sample in enumerate(samples):
        stream = torch.Generator().manual_seed(sample)
        ids.append(torch.randint(SHAPE["vocab_size"], (LENGTH + 1,), generator=stream))
        weights.append((torch.arange(LENGTH) % 5 <= sample % 5).float())
        border = 1 + sample % (LENGTH - 1)  # where the second document begins
        positions.append(torch.cat([torch.arange(border), torch.arange(LENGTH - border)]))
        bounds += [place * LENGTH + border, (place + 1) * LENGTH]
    both = torch.stack(ids)
    return Batch(
        both[:, :-1].contiguous(),
        both[:, 1:].contiguous(),
        torch.stack(weights),
        torch.stack(positions),
        torch.tensor(bounds, dtype=torch.int32),
    )


def train(runtime: Runtime, model: ModelConfig) -> dict[str, Any]:
    """Train a few steps, then score a batch; return what this rank saw, and the whole weights."""
    with torch.device("meta"):
        decoder = Decoder(model, runtime.kernels)

    def fill(name: str, shape: tuple[int, ...], extent: Extent) -> Tensor:
        return extent.of(initial_value(model, name, shape, 0))

    readers = runtime.readers
    shape = BatchShape(1, ROWS // readers.size, readers.rank, readers.size)
    config = TrainConfig(steps=STEPS, optim=AdamWConfig(lr=0.01), checkpoint=CheckpointConfig(every_steps=0))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            decoder, next_token_loss, Rows(shape), config, runtime, workspace(Path(folder)), fill=fill
        )
        results = [trainer.train_step(trainer.source.next_batches()) for _ in range(STEPS)]
        trainer.model.eval()
        batch = _rows(range(3)).to(runtime.torch_device)
        with torch.no_grad():
            scored = trainer.model(
                batch.input_ids_BT, batch.position_ids_BT, batch.cu_seqlens, targets=batch.target_ids_BT
            )
        weights = trainer.model.whole_weights()
    return {
        "losses": [float(result.loss_mean) for result in results],
        "norms": [float(result.grad_norm) for result in results],
        "weights": {name: tensor.flatten().tolist() for name, tensor in weights.items()},
        "scored": scored.flatten().tolist(),
    }
