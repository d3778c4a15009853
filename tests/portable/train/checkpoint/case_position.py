"""A training over token shards that writes down which samples each step of this rank was given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from portable.core.artefact import seal
from portable.core.record import Batch
from portable.data.feed import token_feed
from portable.data.loader import BatchShape
from portable.data.mixture.config import CorpusConfig
from portable.data.shard import ShardWriter
from portable.data.source import BatchSource
from portable.train.config import CheckpointConfig
from portable.train.next_token import next_token_loss
from portable.train.trainer import Trainer
from tests.portable.train.support import TinyModel, make_runtime, train_config, workspace

VOCAB, SEQ_LEN, SAMPLES, STEPS, EVERY = 300, 6, 16, 9, 3  # SAMPLES of a step, over all ranks


@dataclass
class Noted:
    """Passes a source's batches on, and keeps their rows: no two windows of the corpora are alike."""

    source: BatchSource
    seen: list[list[list[int]]]

    def next_batches(self) -> Sequence[Batch]:
        batches = self.source.next_batches()
        self.seen.append([row for batch in batches for row in batch.input_ids_BT.tolist()])
        return batches

    def state_dict(self) -> dict[str, Any]:
        return self.source.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.source.load_state_dict(state)


def make_corpora(folder: Path) -> None:
    """Write two corpora of documents of unequal lengths, larger than what a run reads."""
    for number, name in enumerate(("web", "code")):
        stream = np.random.default_rng(number)
        with ShardWriter(folder / name / "tokens" / "train", vocab_size=VOCAB, end_of_text_id=0) as writer:
            for length in stream.integers(3, 40, size=60):
                writer.add([*stream.integers(1, VOCAB, size=length), 0], int(length))
        (folder / name / "tokenizer").mkdir()
        (folder / name / "tokenizer" / "tokenizer.json").write_text("the same for both")
        seal(folder / name, "corpus", ["tokenizer/tokenizer.json"], {})


def feed(folder: Path, kind: str, shape: BatchShape) -> Any:
    """Open the one corpus, or both as a mixture, read ahead as in pretraining."""
    mixture = [
        CorpusConfig(data=str(folder / name), weight=weight) for name, weight in (("web", 0.7), ("code", 0.3))
    ]
    return token_feed(
        str(folder / "web"),
        mixture if kind == "mixture" else [],
        seq_len=SEQ_LEN,
        shape=shape,
        seed=3,
        document_mask=True,
        steps=STEPS,
        prefetch_batches=2,
    )


def samples_in_order(folder: Path, kind: str) -> list[list[list[int]]]:
    """Return the samples of every step, as one process reads them one by one."""
    with feed(folder, kind, BatchShape(1, SAMPLES)) as source:
        noted = Noted(source, [])
        for _ in range(STEPS):
            noted.next_batches()
    return noted.seen


def read(folder: str, kind: str, strategy: str, micro_batch_size: str, until: str) -> dict[str, Any]:
    """Train to step ``until`` from whatever stands in the folder; return the samples of each step."""
    runtime = make_runtime(strategy)
    readers = runtime.readers
    accum = SAMPLES // readers.size // int(micro_batch_size)
    shape = BatchShape(int(micro_batch_size), accum, readers.rank, readers.size)
    place = Path(folder)
    with feed(place, kind, shape) as source:
        noted = Noted(source, [])
        trainer = Trainer(
            TinyModel(vocab=VOCAB),
            next_token_loss,
            noted,
            train_config(int(until), checkpoint=CheckpointConfig(every_steps=EVERY)),
            runtime,
            workspace(place / kind),
        )
        trainer.resume()
        began = trainer.step
        trainer.fit()
    runtime.group.close()
    return {"began": began, "steps": noted.seen}
