"""Only the languages asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from portable.core.errors import ConfigError, did_you_mean
from portable.core.record import Document
from portable.data.op.protocol import OpKind, Rejection

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

# What is not prose: fenced and indented blocks, doctest lines, words that look like identifiers or calls.
_CODE_BLOCK = re.compile(r"```.*?```|~~~.*?~~~", re.DOTALL)
_CODE_LINE = re.compile(r"^(?:\s{4,}|\t|\s*(?:>>>|\.\.\.|\$|#!|@)).*$", re.MULTILINE)
_CODE_WORD = re.compile(r"\S*[_=<>(){}\[\]\\/@#`*|0-9.:]\S*\w\S*|``[^`]*``")

_MAX_CHARS = 4000


@dataclass(kw_only=True, slots=True)
class Language:
    """Reject a document that is confidently in a language other than ``languages`` (ISO 639-1 codes).

    The identifier (py3langid: naive Bayes over byte n-grams, 97 languages, its model in the package) sees
    prose only: code blocks, doctests and identifiers are set aside first. Where fewer than ``min_letters``
    letters of prose are left it would be guessing, so the document passes; it also passes where the
    identifier is less than ``min_confidence`` sure of the foreign language.

    Source: Lui and Baldwin 2012, "langid.py: An Off-the-shelf Language Identification Tool".
    """

    kind: ClassVar[OpKind] = OpKind.filter

    languages: list[str] = field(default_factory=lambda: ["en"])
    min_letters: int = 60
    min_confidence: float = 0.8

    def __post_init__(self) -> None:
        if not self.languages:
            raise ConfigError("data.ops.language.languages=[]; name at least one, e.g. [en]")

    def __call__(self, document: Document) -> Document | Rejection:
        """Return the document or the rejection ``language_<code>``."""
        language, confidence = identify(document.text, self.min_letters)
        if language == "" or language in self._checked() or confidence < self.min_confidence:
            return document
        return Rejection(f"language_{language}")

    def _checked(self) -> frozenset[str]:
        return _known_only(tuple(self.languages))


def identify(text: str, min_letters: int) -> tuple[str, float]:
    """Return the language of the prose in ``text`` and the probability of it, or ("", 0) for too little
    prose.
    """
    # The beginning tells; the identifier walks byte by byte and would take its time over a book.
    prose = prose_of(text[:_MAX_CHARS])
    if sum(map(str.isalpha, prose)) < min_letters:
        return "", 0.0
    language, confidence = _identifier().classify(prose)
    return language, float(confidence)


def prose_of(text: str) -> str:
    """Return ``text`` without what looks like code."""
    return " ".join(_CODE_WORD.sub(" ", _CODE_LINE.sub("", _CODE_BLOCK.sub("", text))).split())


@lru_cache(maxsize=1)
def _identifier() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@lru_cache(maxsize=8)
def _known_only(languages: tuple[str, ...]) -> frozenset[str]:
    known = sorted(map(str, _identifier().labels))
    for language in languages:
        if language not in known:
            raise ConfigError(
                f"data.ops.language.languages names '{language}', which the identifier does not know."
                f"{did_you_mean(language, known)} Known: {', '.join(known)}."
            )
    return frozenset(languages)
