"""Where sentences, headings and words stand in a text, as character spans.

Rules, not a model: good enough to cut a first sentence, for Latin and for CJK punctuation.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_GAP = re.compile(r"\n[ \t\r]*\n\s*")
_END = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)|[。！？]+[」』”）]*")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:e\.g|i\.e|etc|vs|cf|resp|approx|incl|Dr|Mr|Mrs|St|No|Fig|Eq|[A-Z])\.$"
)
_WORD = re.compile(r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*|[\u3400-\u9fff\u3040-\u30ff\uac00-\ud7af]")
# Lines that start like this are markup: lists, doctests, directives, tables, code fences.
_MARKUP = re.compile(r"\s*(?:[-*+>|=~`^]|\.\. |\d+[.)]\s|>>>|:\w+[^:]*:|@)")


@dataclass(frozen=True, slots=True)
class Span:
    """``text[start:end]``."""

    start: int
    end: int

    def of(self, text: str) -> str:
        """Return the words of the span with white space folded, for a line break inside a sentence means
        nothing.
        """
        return fold(text[self.start : self.end])


def fold(text: str) -> str:
    """Replace every run of white space by one blank."""
    return " ".join(text.split())


def words(text: str) -> list[str]:
    """Return the words in lower case: dotted names whole, CJK characters one by one, punctuation dropped."""
    return [match.group().lower() for match in _WORD.finditer(text)]


def paragraphs(text: str, start: int = 0) -> Iterator[Span]:
    """Yield the blocks between blank lines, from ``start`` on."""
    gaps = [Span(match.start(), match.end()) for match in _GAP.finditer(text, start)]
    begins = [start, *(gap.end for gap in gaps)]
    ends = [*(gap.start for gap in gaps), len(text)]
    for begin, end in zip(begins, ends, strict=True):
        block = text[begin:end]
        if block.strip():
            yield Span(begin + len(block) - len(block.lstrip()), begin + len(block.rstrip()))


def is_prose(text: str) -> bool:
    """Return whether a block reads like a sentence rather than like a list, a doctest or a table."""
    opens_well = text[:1].isalnum() or text[:1] in tuple("\"'(“「")
    return opens_well and not _MARKUP.match(text)


def first_sentence(text: str, block: Span) -> Span | None:
    """Return the first finished sentence of ``block``, or None if it never ends."""
    for match in _END.finditer(text, block.start, block.end):
        if not _ABBREVIATION.search(text, block.start, match.end()):
            return Span(block.start, match.end())
    return None
