"""The batches of a pretraining run: one corpus or a mixture, read ahead or not."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from portable.data.loader import BatchShape, PackedTokenSource
from portable.data.mixture.config import CorpusConfig
from portable.data.mixture.corpus import open_corpora
from portable.data.mixture.source import MixtureSource
from portable.data.prefetch import PrefetchSource
from portable.data.shard import TokenShards
from portable.data.source import BatchSource


@contextmanager
def token_feed(
    data: str,
    mixture: Sequence[CorpusConfig],
    *,
    seq_len: int,
    shape: BatchShape,
    seed: int,
    document_mask: bool,
    steps: int,
    prefetch_batches: int,
) -> Generator[BatchSource]:
    """Yield the source of a run of ``steps`` steps over ``mixture``, or over the corpus ``data`` without one.

    Raises: ConfigError if the mixture does not hold that many samples.
    """
    source: BatchSource
    if mixture:
        source = MixtureSource(
            open_corpora(mixture), seq_len=seq_len, shape=shape, seed=seed, document_mask=document_mask
        )
        source.require(steps * shape.global_batch_size)
    else:
        shards = TokenShards.open(Path(data) / "tokens" / "train")
        source = PackedTokenSource(
            shards, seq_len=seq_len, shape=shape, seed=seed, document_mask=document_mask
        )
    if prefetch_batches == 0:
        yield source
        return
    with closing(PrefetchSource(source, prefetch_batches)) as ahead:
        yield ahead
