"""Batches from several corpora, in exact shares and in an order that seed and position alone decide."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from portable.core.errors import ConfigError, DataError
from portable.core.random import derive_seed
from portable.core.record import Batch
from portable.data.loader import BatchShape, DocumentStream, Window, check_identity, packed_batch
from portable.data.mixture.corpus import Corpus
from portable.data.mixture.interleave import Schedule

logger = logging.getLogger(__name__)


class MixtureSource:
    """Windows of ``seq_len`` tokens, each from one of ``corpora``; a ``BatchSource``.

    Global sample n comes from the corpus that ``Schedule`` says; each corpus is read as ``PackedTokenSource``
    reads one, in orders of its own. A corpus that has been read ``epochs`` times is dropped and the others
    share its weight; ``require`` tells when, before the first step. The position is one number, a global
    sample index, so batch shape and world size may change between runs.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        *,
        seq_len: int,
        shape: BatchShape,
        seed: int = 0,
        document_mask: bool = True,
    ) -> None:
        if seq_len < 1:
            raise ConfigError(f"seq_len={seq_len}; use a positive number of tokens")
        if not corpora:
            raise ConfigError("the mixture has no corpus; list at least one under mixture")
        self.corpora = tuple(corpora)
        self.shape = shape
        self.seq_len = seq_len
        self.seed = seed
        self.document_mask = document_mask
        self.next_sample = 0
        self._schedule = Schedule(
            [Fraction(str(corpus.weight)) for corpus in corpora],
            [_limit(corpus, seq_len) for corpus in corpora],
        )
        self._streams = [
            DocumentStream(corpus.shards, derive_seed(seed, "corpus", place))
            for place, corpus in enumerate(corpora)
        ]

    def require(self, num_samples: int) -> None:
        """Log which corpora run dry within a run of ``num_samples``.

        Raises: ConfigError if all do.
        """
        held = self._schedule.num_samples
        if held is not None and held < num_samples:
            steps = held // self.shape.global_batch_size
            raise ConfigError(
                f"the mixture holds {held} samples of {self.seq_len} tokens within its epochs, but the run "
                f"asks for {num_samples}; use steps={steps} or less, or raise epochs of "
                f"{' or '.join(corpus.name for corpus in self.corpora)}"
            )
        for sample, place in self._schedule.dry:
            if sample < num_samples:
                corpus = self.corpora[place]
                logger.warning(
                    "the %s epochs of corpus %s are over after sample %d of %d (step %d); from there on the "
                    "other corpora share its weight",
                    *(f"{corpus.epochs:g}", corpus.name, sample, num_samples),
                    sample // self.shape.global_batch_size + 1,
                )

    def next_batches(self) -> Sequence[Batch]:
        """Return this rank's micro-batches of the next optimiser step.

        Raises: DataError if all corpora are read to the end.
        """
        held, end = self._schedule.num_samples, self.next_sample + self.shape.global_batch_size
        if held is not None and end > held:
            raise DataError(
                f"the mixture is read to its end: a step needs samples up to {end}, its epochs hold {held}; "
                "raise the epochs of a corpus, or train fewer steps"
            )
        batches = [
            packed_batch([self._row(sample) for sample in samples], self.document_mask)
            for samples in self.shape.samples(self.next_sample)
        ]
        self.next_sample = end
        return batches

    def metrics(self) -> dict[str, float]:
        """Return samples, tokens and epochs that each corpus has given so far, over all ranks."""
        values: dict[str, float] = {}
        for corpus, count in zip(self.corpora, self._schedule.counts(self.next_sample), strict=True):
            tokens = count * self.seq_len
            values[f"corpus/{corpus.name}/samples"] = count
            values[f"corpus/{corpus.name}/tokens"] = tokens
            values[f"corpus/{corpus.name}/epochs"] = tokens / corpus.shards.num_tokens
        return values

    def state_dict(self) -> dict[str, Any]:  # Any: the protocol's type; here numbers and text
        """Return the position, what it is a position in, and what each corpus has given up to it."""
        counts = self._schedule.counts(self.next_sample)
        samples = {corpus.name: count for corpus, count in zip(self.corpora, counts, strict=True)}
        return {"next_sample": self.next_sample, "samples": samples, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position. Raises: ConfigError if it is one in another mixture."""
        check_identity(self._identity(), state)
        self.next_sample = int(state["next_sample"])

    def _identity(self) -> dict[str, Any]:  # Any: numbers and text
        mixture = [
            {"num_tokens": corpus.shards.num_tokens, "weight": corpus.weight, "epochs": corpus.epochs}
            for corpus in self.corpora
        ]
        return {"seed": self.seed, "seq_len": self.seq_len, "mixture": mixture}

    def _row(self, sample: int) -> Window:
        place, own = self._schedule.place(sample)
        return self._streams[place].window(own * self.seq_len, self.seq_len + 1)


def _limit(corpus: Corpus, seq_len: int) -> int | None:
    """Return how many samples a corpus may give."""
    if corpus.shards.num_tokens == 0:
        raise DataError(
            f"corpus {corpus.name} ({corpus.shards.path}) holds no token; give its data stage more text, or "
            "leave it out of the mixture"
        )
    if corpus.epochs is None:
        return None
    limit = int(Fraction(str(corpus.epochs)) * corpus.shards.num_tokens / seq_len)
    if limit == 0:
        raise ConfigError(
            f"corpus {corpus.name}: {corpus.epochs:g} epochs of {corpus.shards.num_tokens} tokens are less "
            f"than one sample of {seq_len}; raise its epochs, or use a shorter seq_len"
        )
    return limit
