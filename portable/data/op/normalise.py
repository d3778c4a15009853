"""Text as its author meant it: mended encoding, one Unicode form, plain white space."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

from portable.core.record import Document
from portable.data.op.protocol import OpKind, Rejection

# Control characters except tab and newline; also the marks that are invisible in copied text.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u200b\u2060\ufeff]")
_TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)


@dataclass(kw_only=True, slots=True)
class Normalise:
    """Mend mojibake (ftfy), compose to NFC, and tidy white space; indentation is kept, for it carries meaning
    in code.

    Lines end with "\\n" and not with blanks; more than ``max_blank_lines`` blank lines in a row become that
    many. HTML entities and quotation marks stay as they are: in text about HTML they are the subject.
    """

    kind: ClassVar[OpKind] = OpKind.mapper

    fix_encoding: bool = True
    max_blank_lines: int = 1

    def __call__(self, document: Document) -> Document | Rejection:
        """Return the document with its text normalised; reject it if nothing is left."""
        text = document.text.replace("\r\n", "\n").replace("\r", "\n")
        if not text.isascii():
            # ASCII can neither be mojibake nor decomposed.
            text = _mend(text, self.fix_encoding)
        text = _TRAILING.sub("", _CONTROL.sub("", text))
        text = _blank_lines(self.max_blank_lines).sub("\n" * (self.max_blank_lines + 1), text)
        text = text.strip("\n").rstrip()
        if not text:
            return Rejection("empty")
        return document if text == document.text else replace(document, text=text)


def _mend(text: str, fix_encoding: bool) -> str:
    import unicodedata

    if not fix_encoding:
        return unicodedata.normalize("NFC", text)
    import ftfy

    settings = ftfy.TextFixerConfig(
        unescape_html=False,
        uncurl_quotes=False,
        fix_character_width=False,
        normalization="NFC",
        explain=False,
    )
    return ftfy.fix_text(text, settings)


@lru_cache(maxsize=8)
def _blank_lines(limit: int) -> re.Pattern[str]:
    return re.compile(rf"\n{{{limit + 2},}}")
