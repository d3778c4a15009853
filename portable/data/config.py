"""Settings of the data stage."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from portable.core.errors import ConfigError


@dataclass(kw_only=True, slots=True)
class PythonDocsConfig:
    """What the ``python_docs`` source reads besides topics, builtins and the standard library.

    ``packages`` are installed packages, read as text and never imported; ``max_documents_per_package`` of
    each are taken, from modules chosen by a hash of their names (0 takes all). A thing whose docstring has
    fewer than ``min_doc_chars`` characters is no document.
    """

    packages: list[str] = field(
        default_factory=lambda: [
            *("numpy", "torch", "transformers", "sympy", "networkx"),
            *("huggingface_hub", "peft", "fsspec", "jinja2", "rich"),
        ]
    )
    max_documents_per_package: int = 800
    include_private: bool = True
    min_doc_chars: int = 20

    def __post_init__(self) -> None:
        _check_at_least("python_docs.max_documents_per_package", self.max_documents_per_package, 0)
        _check_at_least("python_docs.min_doc_chars", self.min_doc_chars, 0)


@dataclass(kw_only=True, slots=True)
class DedupConfig:
    """Exact and near duplicates. Two documents whose word n-grams have Jaccard similarity s become candidates
    with probability ``1 - (1 - s**rows_per_band)**num_bands``: about one half at s = 0.72 for 14 bands of 8.

    ``min_jaccard`` checks each candidate pair against its true similarity; 0 believes the bands alone.
    """

    exact: bool = True
    minhash: bool = True
    ngram: int = 5
    num_bands: int = 14
    rows_per_band: int = 8
    min_jaccard: float = 0.7

    def __post_init__(self) -> None:
        for name, value in (
            ("ngram", self.ngram),
            ("num_bands", self.num_bands),
            ("rows_per_band", self.rows_per_band),
        ):
            _check_at_least(f"dedup.{name}", value, 1)
        _check_fraction("dedup.min_jaccard", self.min_jaccard)


@dataclass(kw_only=True, slots=True)
class TokenizerConfig:
    """A byte-level BPE. ``vocab_size`` counts everything: special tokens, the 256 bytes and the merges.

    A pair must occur ``min_frequency`` times to be merged. ``model_max_length`` is only written down for
    readers of the tokenizer folder. ``path`` is a tokenizer folder to take instead of learning one, so that
    several corpora can be mixed; the other settings then say nothing.
    """

    path: str = ""
    vocab_size: int = 4096
    min_frequency: int = 2
    model_max_length: int = 512

    def __post_init__(self) -> None:
        _check_at_least("tokenizer.vocab_size", self.vocab_size, 1)
        _check_at_least("tokenizer.min_frequency", self.min_frequency, 1)
        _check_at_least("tokenizer.model_max_length", self.model_max_length, 1)


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """From a source to a sealed corpus.

    ``source`` is a registered source (``python_docs``) or a path or glob, local or of any fsspec file system.
    ``ops`` are run in the order written; each value holds what differs from that op's defaults.
    ``max_documents`` stops reading early and ``num_workers`` is a number of processes; 0 means no limit, and
    one a core. The result does not depend on ``num_workers``. ``keep_rejected`` writes every dropped document
    with its op and reason into ``rejected/``; ``num_samples`` of each op stand in ``funnel.json`` anyway.
    """

    source: str = MISSING
    text_field: str = "text"
    id_field: str | None = None
    strict: bool = False
    python_docs: PythonDocsConfig = field(default_factory=PythonDocsConfig)
    max_documents: int = 0
    heldout_fraction: float = 0.05
    ops: dict[str, Any] = field(default_factory=dict)  # Any: each op has its own fields, checked by build_ops
    dedup: DedupConfig = field(default_factory=DedupConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    shard_tokens: int = 2**26
    seed: int = 0
    num_workers: int = 0
    keep_rejected: bool = False
    num_samples: int = 5

    def __post_init__(self) -> None:
        for name, least in (
            ("max_documents", 0),
            ("num_workers", 0),
            ("num_samples", 0),
            ("shard_tokens", 1),
        ):
            _check_at_least(name, getattr(self, name), least)
        _check_fraction("heldout_fraction", self.heldout_fraction)
        if self.heldout_fraction >= 1:
            raise ConfigError(
                f"data.heldout_fraction={self.heldout_fraction} leaves nothing to train on; use e.g. 0.05"
            )


def _check_at_least(name: str, value: object, least: int) -> None:
    # While a config is being composed a value may still be the text "???".
    if isinstance(value, int) and value < least:
        raise ConfigError(f"data.{name}={value}; use {least} or more")


def _check_fraction(name: str, value: object) -> None:
    if isinstance(value, int | float) and not 0 <= value <= 1:
        raise ConfigError(f"data.{name}={value}; use a fraction between 0 and 1")
