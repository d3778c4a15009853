"""Text that is mostly signs: tables of numbers, ASCII art, generated code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from portable.core.errors import ConfigError
from portable.core.record import Document
from portable.data.op.protocol import OpKind, Rejection


@dataclass(frozen=True, slots=True)
class SymbolStats:
    """Shares of one text: letters among what is not white space; hash signs and ellipses for each word."""

    num_words: int
    letters: float
    hashes_per_word: float
    ellipses_per_word: float


@dataclass(kw_only=True, slots=True)
class Symbol:
    """Reject documents with too few letters, or too many hash signs or ellipses for their words.

    ``max_hashes_per_word`` and ``max_ellipses_per_word`` are the published 0.1. Like the paper's they are for
    texts of ``min_words`` words and more: in a short one a single sign would decide. ``min_letters`` replaces
    the paper's count of words with a letter, because signatures and examples in documentation are rich in
    signs.

    Source: Rae et al. 2021, arXiv:2112.11446, section A.1.1.
    """

    kind: ClassVar[OpKind] = OpKind.filter

    min_words: int = 50
    min_letters: float = 0.5
    max_hashes_per_word: float = 0.1
    max_ellipses_per_word: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.min_letters <= 1:
            raise ConfigError(
                f"data.ops.symbol.min_letters={self.min_letters}; use a fraction between 0 and 1"
            )

    def __call__(self, document: Document) -> Document | Rejection:
        """Return the document or the statistic that is out of bounds."""
        stats = measure_symbols(document.text)
        if stats.letters < self.min_letters:
            return Rejection("few_letters")
        if stats.num_words < self.min_words:
            return document
        if stats.hashes_per_word > self.max_hashes_per_word:
            return Rejection("hash_signs")
        if stats.ellipses_per_word > self.max_ellipses_per_word:
            return Rejection("ellipses")
        return document


def measure_symbols(text: str) -> SymbolStats:
    """Return the statistics; an empty text has no letters."""
    words = text.split()
    num_words = max(len(words), 1)
    visible = sum(map(len, words))
    letters = sum(map(str.isalpha, text))
    ellipses = text.count("...") + text.count("…")
    hashes = text.count("#")
    return SymbolStats(len(words), letters / max(visible, 1), hashes / num_words, ellipses / num_words)
