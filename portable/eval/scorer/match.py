"""Answers against references, as SQuAD does it (Rajpurkar et al. 2016, arXiv:1606.05250), any language."""

import re
from collections import Counter

_ARTICLES = frozenset({"a", "an", "the"})
# Dotted names fall into their parts, so that a near miss earns something; CJK has no blanks, so there each
# character is a word.
_WORD = re.compile(
    r"[\u3400-\u9fff\u3040-\u30ff\uac00-\ud7af]|(?:(?![\u3400-\u9fff\u3040-\u30ff\uac00-\ud7af])\w)+"
)


def normalise(text: str) -> list[str]:
    """Return the words of ``text`` in lower case, without punctuation and English articles."""
    return [word for word in _WORD.findall(text.lower()) if word not in _ARTICLES]


def exact_match(answer: str, reference: str) -> float:
    """Return 1 if both are the same words in the same order, else 0."""
    return float(normalise(answer) == normalise(reference))


def token_f1(answer: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall over words, counted with multiplicity.

    Two empty answers agree: 1. One empty one shares nothing: 0.
    """
    said, wanted = Counter(normalise(answer)), Counter(normalise(reference))
    if not said or not wanted:
        return float(said == wanted)
    shared = (said & wanted).total()
    return 2 * shared / (said.total() + wanted.total())
