"""The corpora of a mixture, opened, and checked to speak one vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from portable.core.artefact import open_artefact
from portable.core.errors import ConfigError
from portable.core.storage import file_digest
from portable.data.mixture.config import CorpusConfig, check_mixture
from portable.data.shard import TokenShards


@dataclass(frozen=True, slots=True)
class Corpus:
    """Token shards with their share of the samples; at most ``epochs`` passes are read, None: any number."""

    name: str
    shards: TokenShards
    weight: float
    epochs: float | None = None


def open_corpora(configs: Sequence[CorpusConfig]) -> list[Corpus]:
    """Open the training shards of every corpus.

    Raises: ConfigError if the weights are no shares, or two corpora were made with different tokenizers.
    """
    check_mixture(configs)
    digests: dict[str, str] = {}
    corpora: list[Corpus] = []
    for config in configs:
        folder = open_artefact(Path(config.data), "corpus").path
        digests[config.label] = file_digest(folder / "tokenizer" / "tokenizer.json")
        shards = TokenShards.open(folder / "tokens" / "train")
        corpora.append(Corpus(config.label, shards, config.weight, config.epochs))
    first, *others = digests
    for name in others:
        if digests[name] != digests[first]:
            raise ConfigError(
                f"the corpora {first} and {name} of the mixture were made with different tokenizers, so the "
                f"same id means different text; make {name} again with "
                f"data.tokenizer.path={Path(configs[0].data) / 'tokenizer'}"
            )
    return corpora
