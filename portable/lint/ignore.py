"""Comments that silence: ``# portable: ignore[P01,P04]``, ``# portable: ignore``, ``ignore-file[P20]``."""

from __future__ import annotations

import io
import re
import tokenize
from dataclasses import dataclass, field

from portable.lint.finding import Span

_COMMENT = re.compile(r"#\s*portable:\s*ignore(?P<file>-file)?(?:\[(?P<ids>[^\]]*)\])?(?![\w-])")
EVERYTHING = "everything"


@dataclass(slots=True)
class Ignore:
    """One comment. ``ids`` empty: all rules. ``used`` collects what it silenced."""

    span: Span
    ids: tuple[str, ...]
    whole_file: bool
    used: set[str] = field(default_factory=set[str])

    def silences(self, rule: str) -> bool:
        """Return whether ``rule`` is meant, and note it."""
        if self.ids and rule not in self.ids:
            return False
        self.used.add(rule)
        return True

    def unused(self, active: set[str]) -> list[str]:
        """Return the ids of ``active`` rules that silenced nothing; EVERYTHING for a comment without ids."""
        if not self.ids:
            return [] if self.used else [EVERYTHING]
        return [name for name in self.ids if name in active and name not in self.used]


class Ignores:
    """All such comments of a file."""

    def __init__(self, comments: list[Ignore]) -> None:
        self.comments = comments
        self._lines = {comment.span.line: comment for comment in comments if not comment.whole_file}
        self._file = [comment for comment in comments if comment.whole_file]

    def silence(self, rule: str, lines: set[int]) -> bool:
        """Return whether ``rule`` is silenced for the whole file or on one of ``lines``."""
        here = [self._lines[line] for line in sorted(lines & self._lines.keys())]
        silent = [comment for comment in (*here, *self._file) if comment.silences(rule)]  # each notes its use
        return bool(silent)


def find_ignores(text: str) -> Ignores:
    """Return the comments of ``text``; those inside strings are none.

    A comment for the file counts wherever it stands alone before the first statement.
    """
    if "portable:" not in text:  # tokenizing is slow, and most files have none
        return Ignores([])
    comments: list[Ignore] = []
    at_top = True
    try:
        for token in tokenize.generate_tokens(io.StringIO(text, newline="").readline):
            if token.type == tokenize.COMMENT and (match := _COMMENT.match(token.string)):
                comments += _ignore(token, match, at_top)
            elif token.type not in _NO_STATEMENT:
                at_top = False
    except (tokenize.TokenError, SyntaxError):  # the parser has accepted the text: keep what was found
        pass
    return Ignores(comments)


_NO_STATEMENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENCODING, tokenize.STRING}


def _ignore(token: tokenize.TokenInfo, match: re.Match[str], at_top: bool) -> list[Ignore]:
    whole_file = bool(match["file"])
    if whole_file and not at_top:
        return []
    ids = tuple(name.strip() for name in (match["ids"] or "").split(",") if name.strip())
    span = Span(*token.start, token.start[0], token.start[1] + match.end())
    return [Ignore(span, ids, whole_file)]
