"""A tiny model and an in-memory source, for tests that train."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from portable.core.metric import MetricSink, NullSink
from portable.core.random import derive_seed
from portable.core.record import Batch
from portable.core.workspace import Workspace
from portable.train.config import AdamWConfig, CheckpointConfig, Decay, ScheduleConfig, TrainConfig

VOCAB, WIDTH = 17, 8


class Block(nn.Module):
    """A residual step whose matrix is Muon's kind."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(torch.tanh(self.inner(self.norm(x))))


class TinyModel(nn.Module):
    """Called like the decoder: ids in, log-probabilities of the targets out (of all tokens without targets).

    Every token looks at the mean of those before.
    """

    def __init__(self, seed: int = 0, dropout: float = 0.0, num_blocks: int = 2, vocab: int = VOCAB) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(vocab, WIDTH)
        self.blocks = nn.ModuleList(Block(dropout) for _ in range(num_blocks))
        self.head = nn.Linear(WIDTH, vocab, bias=False)

    def forward(
        self,
        ids: Tensor,
        position_ids: Tensor,
        cu_seqlens: Tensor | None = None,
        targets: Tensor | None = None,
    ) -> Tensor:
        x = self.embed(ids)
        x = x.cumsum(dim=1) / (position_ids + 1).unsqueeze(-1)
        for block in self.blocks:
            x = block(x)
        log_probs = F.log_softmax(self.head(x).float(), dim=-1)
        if targets is None:
            return log_probs
        scored = log_probs.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        return torch.where(targets >= 0, scored, 0.0)  # a negative target is ignored, as by the decoder


def rows_to_batch(rows: Sequence[int], seq_len: int = 6) -> Batch:
    """Rows are made from their own number, with unequal counts of learnt targets."""
    ids, weights = [], []
    for row in rows:
        stream = torch.Generator().manual_seed(derive_seed(7, "row", row))
        ids.append(torch.randint(VOCAB, (seq_len + 1,), generator=stream))
        weights.append((torch.arange(seq_len) <= row % seq_len).float())
    both, weight = torch.stack(ids), torch.stack(weights)
    positions = torch.arange(seq_len).expand(len(rows), -1)
    return Batch(both[:, :-1].contiguous(), both[:, 1:].contiguous(), weight, positions)


class RowSource:
    """Deals consecutive rows: ``micro`` a batch, ``accum`` batches a step, to ``size`` ranks."""

    def __init__(self, micro: int, accum: int, rank: int = 0, size: int = 1) -> None:
        self.micro, self.accum, self.rank, self.size = micro, accum, rank, size
        self.next_row = 0

    def next_batches(self) -> list[Batch]:
        first = self.next_row + self.rank * self.micro * self.accum
        self.next_row += self.micro * self.accum * self.size
        return [
            rows_to_batch(range(first + place * self.micro, first + (place + 1) * self.micro))
            for place in range(self.accum)
        ]

    def state_dict(self) -> dict[str, Any]:
        return {"next_row": self.next_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.next_row = state["next_row"]


def train_config(steps: int, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "optim": AdamWConfig(lr=0.05),
        "schedule": ScheduleConfig(decay=Decay.cosine, warmup_steps=2),
        "checkpoint": CheckpointConfig(every_steps=0),
    }
    return TrainConfig(steps=steps, **(settings | changes))


def workspace(path: Path, sink: MetricSink | None = None) -> Workspace:
    return Workspace(path, sink or NullSink())


def weights_hash(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
