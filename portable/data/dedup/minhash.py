"""MinHash signatures of word n-grams, folded into bands: near duplicates share a band with high probability.

Shapes: N shingles of a document, K = num_bands * rows_per_band hash functions.
"""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
import xxhash
from numpy.typing import NDArray

_WORD = re.compile(r"\w+")
# An odd constant for polynomial hashes, arithmetic modulo 2**64 (from Knuth's MMIX generator).
_BASE = np.uint64(6364136223846793005)
# The hash functions are part of the meaning of a run, not one of its settings.
_SEED = 1
HashArray = NDArray[np.uint64]


def shingle_text(text: str, ngram: int) -> HashArray:
    """Return the hashes of all distinct ``ngram``-word sequences, sorted; case and punctuation do not count.

    Numbers count as they are: tables with different numbers are different. A text of fewer words is one
    shingle.
    """
    words = _WORD.findall(text.lower())
    if not words:
        words = [text]
    numbers: dict[str, int] = {}
    index_N = [numbers.setdefault(word, len(numbers)) for word in words]
    hashed = np.array([_hash_word(word) for word in numbers], dtype=np.uint64)[index_N]
    size = min(ngram, len(words))
    shingles = np.zeros(len(words) - size + 1, dtype=np.uint64)
    for offset in range(size):
        shingles = shingles * _BASE + hashed[offset : offset + shingles.size]
    return np.unique(shingles)


def band_hashes(shingles_N: HashArray, num_bands: int, rows_per_band: int) -> HashArray:
    """Return (num_bands,) hashes; two documents of Jaccard similarity s agree in one band with probability
    s**rows.

    Source: Broder 1997, "On the resemblance and containment of documents"; hash functions are multiply-shift,
    (a x + b mod 2**64) >> 32 with odd a (Dietzfelbinger et al. 1997).
    """
    a_K, b_K = _hash_functions(num_bands * rows_per_band)
    signature_K = np.full(a_K.size, 2**32 - 1, dtype=np.uint64)
    for start in range(0, shingles_N.size, 4096):  # bounds the memory of a long document
        block = shingles_N[start : start + 4096, None] * a_K + b_K
        np.minimum(signature_K, (block >> np.uint64(32)).min(axis=0), out=signature_K)
    bands = np.zeros(num_bands, dtype=np.uint64)
    for column in signature_K.reshape(num_bands, rows_per_band).T:
        bands = (bands ^ column) * _BASE + np.uint64(1)
    return bands


def jaccard(left: HashArray, right: HashArray) -> float:
    """Return the share of common elements of two sorted arrays without repeats."""
    common = np.intersect1d(left, right, assume_unique=True).size
    return common / (left.size + right.size - common)


@lru_cache(maxsize=65536)
def _hash_word(word: str) -> int:
    return xxhash.xxh3_64_intdigest(word.encode("utf-8", "surrogatepass"))


@lru_cache(maxsize=4)
def _hash_functions(count: int) -> tuple[HashArray, HashArray]:
    rng = np.random.Generator(np.random.PCG64(_SEED))
    a, b = rng.integers(0, 2**64 - 1, size=(2, count), dtype=np.uint64, endpoint=True)
    return a | np.uint64(1), b
