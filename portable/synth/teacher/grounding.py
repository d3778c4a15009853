"""Does an answer stand in its passage?"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from portable.synth.sentence import Span

_WORD = re.compile(r"[^\W_]+(?:[._][^\W_]+)*")


@dataclass(frozen=True, slots=True)
class Evidence:
    """The stretch of the passage that carries the answer, and how well (word F1; 1 for a verbatim answer)."""

    span: Span
    score: float


def find_evidence(answer: str, passage: str) -> Evidence | None:
    """Return the best evidence for ``answer``, or None if they share no word.

    A verbatim answer (white space and case aside) is found as such. Otherwise a window of as many words as
    the answer has slides over the passage, and the window with the highest F1 over words wins, the first of
    equals.
    """
    verbatim = re.compile(r"\s+".join(map(re.escape, answer.split())), re.IGNORECASE)
    match = verbatim.search(passage) if answer.strip() else None
    if match is not None:
        return Evidence(Span(match.start(), match.end()), 1.0)
    wanted = Counter(found.group().lower() for found in _WORD.finditer(answer))
    places = list(_WORD.finditer(passage))
    width = min(wanted.total(), len(places))
    if width == 0:
        return None
    best, best_first = 0.0, 0
    for first in range(len(places) - width + 1):
        window = Counter(place.group().lower() for place in places[first : first + width])
        score = 2 * (window & wanted).total() / (width + wanted.total())
        if score > best:
            best, best_first = score, first
    if best == 0:
        return None
    return Evidence(Span(places[best_first].start(), places[best_first + width - 1].end()), best)
