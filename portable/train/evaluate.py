"""Bits per byte of held-out text: comparable between tokenizers, and with compressors.

Shapes: B rows, T tokens, D documents.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from portable.core.errors import DataError
from portable.data.shard import TokenShards
from portable.parallel.runtime import Runtime
from portable.parallel.spread_model import SpreadModel

FloatArray = NDArray[np.float64]
Model = nn.Module | SpreadModel


@dataclass(frozen=True, slots=True)
class TextScore:
    """Nats and bytes of each document, kept apart so that intervals can be drawn by resampling documents."""

    document_nats: FloatArray
    document_bytes: FloatArray

    @classmethod
    def join(cls, scores: Sequence[TextScore]) -> TextScore:
        """Return the score of all documents of several texts."""
        nats = np.concatenate([score.document_nats for score in scores])
        return cls(nats, np.concatenate([score.document_bytes for score in scores]))

    @property
    def bits_per_byte(self) -> float:
        """Total nats / ln 2 / total bytes."""
        return float(self.document_nats.sum() / math.log(2) / self.document_bytes.sum())


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Targets ``ids[1:]`` given ``ids[:-1]``, all of one document."""

    document: int
    ids: NDArray[np.int64]


def bits_per_byte(
    model: Model,
    shards: TokenShards,
    runtime: Runtime,
    *,
    seq_len: int,
    batch_tokens: int = 16_384,
    max_documents: int | None = None,
) -> TextScore:
    """Score whole documents, each alone, in chunks of ``seq_len`` tokens; a chunk sees one token of the chunk
    before.

    A document's first token is predicted from the end-of-text token, so every token of the text counts, once.
    The closing end-of-text token stands for no byte and does not count. The model is left in the mode it was
    in. Every rank must call it, and gets the same result.

    Raises: DataError if there is nothing to score.
    """
    num_documents = len(shards) if max_documents is None else min(max_documents, len(shards))
    bytes_D = shards.byte_counts_D[:num_documents].astype(np.float64)
    if bytes_D.sum() == 0:
        raise DataError(
            f"{shards.path} holds no held-out text; give the data stage more documents or a larger held-out "
            "share"
        )
    batches = list(_batches(shards, num_documents, seq_len, batch_tokens))
    nats_D = np.zeros(num_documents)
    was_training = model.training
    model.eval()
    group = runtime.readers
    # Every rank runs equally many forward passes, for a sharded model's ranks need each other in each.
    for first in range(0, len(batches), group.size):
        place = first + group.rank
        chunks = batches[min(place, len(batches) - 1)]
        nats = _chunk_nats(model, chunks, runtime)
        if place < len(batches):
            np.add.at(nats_D, [chunk.document for chunk in chunks], nats)
    model.train(was_training)
    parts = [group.broadcast_object(nats_D, source) for source in range(group.size)]
    return TextScore(np.sum(parts, axis=0), bytes_D)


def _batches(
    shards: TokenShards, num_documents: int, seq_len: int, batch_tokens: int
) -> Iterator[list[_Chunk]]:
    """Group chunks of like length, so that little of a batch is padding; the order depends on the documents
    only.
    """
    chunks = [chunk for document in range(num_documents) for chunk in _chunks(shards, document, seq_len)]
    chunks.sort(key=lambda chunk: (-len(chunk.ids), chunk.document))
    while chunks:
        num_rows = max(1, batch_tokens // len(chunks[0].ids))
        yield chunks[:num_rows]
        chunks = chunks[num_rows:]


def _chunks(shards: TokenShards, document: int, seq_len: int) -> Iterator[_Chunk]:
    text_ids = shards.document(document)[:-1].astype(np.int64)
    ids = np.concatenate([[shards.end_of_text_id], text_ids])
    for start in range(0, len(text_ids), seq_len):
        yield _Chunk(document, ids[start : start + seq_len + 1])


@torch.no_grad()
def _chunk_nats(model: Model, chunks: Sequence[_Chunk], runtime: Runtime) -> FloatArray:
    """Return the nats of each chunk's targets.

    Rows are padded on the right, where causal attention never looks.
    """
    length = max(len(chunk.ids) for chunk in chunks)
    ids_BT1 = np.zeros((len(chunks), length), dtype=np.int64)
    real_BT = np.zeros((len(chunks), length - 1), dtype=np.float64)
    for row, chunk in enumerate(chunks):
        ids_BT1[row, : len(chunk.ids)] = chunk.ids
        real_BT[row, : len(chunk.ids) - 1] = 1.0
    ids = torch.from_numpy(ids_BT1).to(runtime.torch_device)
    position_ids_BT = torch.arange(length - 1, device=ids.device).expand(len(chunks), -1)
    with runtime.device.autocast(runtime.precision.compute_dtype):
        log_probs_BT = model(ids[:, :-1], position_ids_BT, None, targets=ids[:, 1:])
    return -(log_probs_BT.cpu().double().numpy() * real_BT).sum(axis=1)
