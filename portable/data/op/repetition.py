"""Text that says the same thing over and over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from portable.core.errors import ConfigError
from portable.core.record import Document
from portable.data.op.protocol import OpKind, Rejection

# An odd constant for polynomial hashes of word n-grams, modulo 2**64 (from Knuth's MMIX generator).
_BASE = np.uint64(6364136223846793005)
WordArray = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class RepetitionStats:
    """Fractions of one text. ``top_ngram_chars[i]`` and ``repeated_ngram_chars[i]`` belong to the i-th size
    asked for.
    """

    repeated_lines: float
    repeated_line_chars: float
    repeated_paragraphs: float
    repeated_paragraph_chars: float
    top_ngram_chars: tuple[float, ...]
    repeated_ngram_chars: tuple[float, ...]


@dataclass(kw_only=True, slots=True)
class Repetition:
    """Reject documents in which lines, paragraphs or word n-grams repeat more than the published thresholds
    allow.

    A line, paragraph or n-gram counts from its second appearance on. ``max_top_ngram[i]`` bounds the share of
    characters that the most frequent (2 + i)-gram covers, ``max_repeated_ngrams[i]`` that of all repeated (5
    + i)-grams, characters shared by overlapping ones counted once. Texts under ``min_words`` words pass: in a
    docstring of two lines the arguments' names alone would break the n-gram thresholds, which were set for
    web pages.

    Source: Rae et al. 2021, arXiv:2112.11446, table A1.
    """

    kind: ClassVar[OpKind] = OpKind.filter

    min_words: int = 100
    max_repeated_lines: float = 0.30
    max_repeated_line_chars: float = 0.20
    max_repeated_paragraphs: float = 0.30
    max_repeated_paragraph_chars: float = 0.20
    max_top_ngrams: list[float] = field(default_factory=lambda: [0.20, 0.18, 0.16])
    max_repeated_ngrams: list[float] = field(default_factory=lambda: [0.15, 0.14, 0.13, 0.12, 0.11, 0.10])

    def __post_init__(self) -> None:
        for name in ("max_top_ngrams", "max_repeated_ngrams"):
            for bound in getattr(self, name):
                if not 0 <= bound <= 1:
                    raise ConfigError(
                        f"data.ops.repetition.{name} holds {bound}; use fractions between 0 and 1"
                    )

    def __call__(self, document: Document) -> Document | Rejection:
        """Return the document or the first statistic that is too high."""
        words = document.text.split()
        if len(words) < self.min_words:
            return document
        stats = measure_repetition(
            document.text, words, len(self.max_top_ngrams), len(self.max_repeated_ngrams)
        )
        pairs = (
            ("repeated_lines", stats.repeated_lines, self.max_repeated_lines),
            ("repeated_lines", stats.repeated_line_chars, self.max_repeated_line_chars),
            ("repeated_paragraphs", stats.repeated_paragraphs, self.max_repeated_paragraphs),
            ("repeated_paragraphs", stats.repeated_paragraph_chars, self.max_repeated_paragraph_chars),
            *(("top_ngram", *pair) for pair in zip(stats.top_ngram_chars, self.max_top_ngrams, strict=True)),
            *(
                ("repeated_ngrams", *pair)
                for pair in zip(stats.repeated_ngram_chars, self.max_repeated_ngrams, strict=True)
            ),
        )
        for reason, value, bound in pairs:
            if value > bound:
                return Rejection(reason)
        return document


def measure_repetition(text: str, words: Sequence[str], num_top: int, num_repeated: int) -> RepetitionStats:
    """Return the statistics: top n-grams for n from 2, repeated n-grams for n from 5."""
    # Rules under headings and between the rows of a table repeat by design: only what says something counts.
    lines = [line.strip() for line in text.split("\n") if any(map(str.isalnum, line))]
    paragraphs = [block.strip() for block in text.split("\n\n") if any(map(str.isalnum, block))]
    numbers: dict[str, int] = {}
    ids = np.array([numbers.setdefault(word, len(numbers)) + 1 for word in words], dtype=np.uint64)
    lengths = np.array([len(word) for word in words], dtype=np.int64)
    hashes = ids
    top: list[float] = []
    repeated: list[float] = []
    for size in range(2, max(2 + num_top, 5 + num_repeated)):
        hashes = hashes[:-1] * _BASE + ids[size - 1 :] if size <= len(words) else ids[:0]
        if size < 2 + num_top:
            top.append(_top_share(hashes, lengths, size))
        if 5 <= size < 5 + num_repeated:
            repeated.append(_repeated_share(hashes, lengths, size))
    return RepetitionStats(*_repeats(lines), *_repeats(paragraphs), tuple(top), tuple(repeated))


def _repeats(items: Sequence[str]) -> tuple[float, float]:
    """Return the shares of items, and of their characters, that appeared before."""
    seen: set[str] = set()
    count = chars = total = 0
    for item in items:
        total += len(item)
        if item in seen:
            count += 1
            chars += len(item)
        seen.add(item)
    return count / max(len(items), 1), chars / max(total, 1)


def _top_share(hashes: WordArray, lengths: NDArray[np.int64], size: int) -> float:
    if hashes.size == 0:
        return 0.0
    _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
    if counts.max() == 1:
        return 0.0
    chars = np.convolve(lengths, np.ones(size, dtype=np.int64), "valid")[first]
    # Of equally frequent n-grams the longest counts. Overlaps count twice, so the share may pass 1.
    best = (counts * chars)[counts == counts.max()].max()
    return float(best / lengths.sum())


def _repeated_share(hashes: WordArray, lengths: NDArray[np.int64], size: int) -> float:
    if hashes.size == 0:
        return 0.0
    _, first = np.unique(hashes, return_index=True)
    if first.size == hashes.size:
        return 0.0
    starts = np.ones(hashes.size, dtype=bool)
    starts[first] = False
    covered = np.zeros(lengths.size, dtype=bool)
    for offset in range(size):
        covered[offset : offset + starts.size] |= starts
    return float(lengths[covered].sum() / lengths.sum())
