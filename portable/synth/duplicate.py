"""Near-duplicate questions, found exactly and without comparing all pairs.

Two questions are near-duplicates if the sets of their telling words (everything but the words that questions
are made of) have a Jaccard overlap of at least ``threshold``. Prefix filtering (Chaudhuri, Ganti and Kaushik
2006) makes it fast: under any fixed order of words, two such sets share a word among the first ``n -
ceil(threshold * n) + 1`` of each.
"""

import hashlib
import math
from collections import defaultdict

from portable.synth.sentence import words

_QUESTION_WORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "what",
        "which",
        "who",
        "whom",
        "whose",
        "when",
        "where",
        "why",
        "how",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "do",
        "does",
        "did",
        "has",
        "have",
        "had",
        "can",
        "could",
        "will",
        "would",
        "should",
        "may",
        "might",
        "must",
        "of",
        "in",
        "on",
        "at",
        "to",
        "for",
        "from",
        "by",
        "with",
        "about",
        "and",
        "or",
        "as",
        "it",
        "its",
        "this",
        "that",
        "these",
        "those",
        "there",
        "you",
        "i",
        "we",
        "one",
        "please",
    ]
)


class QuestionIndex:
    """Remembers questions and refuses near-duplicates of them."""

    def __init__(self, threshold: float = 0.9) -> None:
        self.threshold = threshold
        self._sets: list[frozenset[str]] = []
        self._by_word: defaultdict[str, list[int]] = defaultdict(list)

    def add(self, question: str) -> bool:
        """Remember ``question``; return False, and forget it, if it is a near-duplicate of an earlier one."""
        telling = telling_words(question)
        # Words in the order of their hash: fixed, and no common word comes first by its spelling.
        ordered = sorted(
            telling, key=lambda word: (hashlib.blake2b(word.encode(), digest_size=8).digest(), word)
        )
        prefix = ordered[: len(ordered) - math.ceil(self.threshold * len(ordered) - 1e-9) + 1]
        candidates = {index for word in prefix for index in self._by_word[word]}
        if any(_jaccard(telling, self._sets[index]) >= self.threshold for index in candidates):
            return False
        for word in prefix:
            self._by_word[word].append(len(self._sets))
        self._sets.append(telling)
        return True


def telling_words(question: str) -> frozenset[str]:
    """Return the words that make the question this one; all its words if none is telling."""
    found = words(question)
    return frozenset(word for word in found if word not in _QUESTION_WORDS) or frozenset(found)


def _jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    return len(left & right) / len(left | right)
