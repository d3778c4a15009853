"""Question-answer drafts by rule: for documents that describe a named thing, and for any prose.

Every answer is a span of the document; the rules only find it and put the question.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from portable.core.record import Document
from portable.synth.sentence import Span, first_sentence, fold, is_prose, paragraphs, words

MAX_SENTENCE_WORDS = 40  # longer ones are lists in disguise
MAX_SIGNATURE_CHARS = 80
MAX_NAME_CHARS = 48  # longer ones are paths into the inside of packages, all much alike
_MIN_WORDS = 3
_HEADING = re.compile(r"^(?P<mark>#{1,6}[ \t]+)(?P<title>\S.{0,78}?)[ \t]*#*$", re.MULTILINE)
_DEFINITION = re.compile(
    r"(?P<term>(?:(?:An?|The) )?[A-Z][\w.-]*(?: [\w.-]+){0,3}) (?P<verb>is|are) (?:an?|the|any) "
)
_VAGUE = frozenset(
    {"this", "that", "it", "these", "those", "there", "he", "she", "they", "here", "what", "which"}
)

# Several ways to ask the same, by what is described; the seed and the document choose one.
_PURPOSE = {
    "function": ("What does {name} do?", "What is {name} for?", "What does the function {name} do?"),
    "method": ("What does {name} do?", "What is {name} for?", "What does the method {name} do?"),
    "class": ("What is {name}?", "What is the class {name}?", "What is {name} for?"),
    "module": (
        "What is the module {name} about?",
        "What is {name} for?",
        "What does the module {name} offer?",
    ),
    "topic": ("What is said about {name}?", "What should one know about {name}?"),
}
_SIGNATURE = ("What is the signature of {name}?", "How is {name} called?", "What arguments does {name} take?")
_PACKAGE = ("Which package holds {name}?", "What package is {name} part of?", "Which package has {name}?")
_MODULE = ("Which module defines {name}?", "In which module is {name}?", "Where is {name} defined?")


@dataclass(frozen=True, slots=True)
class Draft:
    """Wordings of one question, and where its answer stands in the document."""

    rule: str
    questions: tuple[str, ...]
    answer: Span


def is_reference(document: Document) -> bool:
    """Return whether the document describes one thing, which its metadata names."""
    return bool(document.metadata.get("name")) and document.metadata.get("kind") in _PURPOSE


def described_sentence(document: Document) -> Span | None:
    """Return the sentence that says what the document's subject is or does, if it has a clear one."""
    start = _head(document).end
    for block in paragraphs(document.text, start):
        text = document.text[block.start : block.end]
        if not is_prose(text) or not _is_statement(text):
            return None  # what follows a list or a doctest is no longer about the subject as such
        sentence = first_sentence(document.text, block)
        if sentence is None and "\n" not in text and not text.endswith(":"):
            sentence = block  # many one-line docstrings lack the full stop
        return sentence if sentence is not None and _fits(sentence.of(document.text)) else None
    return None


def reference_drafts(document: Document, *, sentence_is_unique: bool) -> list[Draft]:
    """Return what can be asked about a document that describes the thing its metadata calls ``name``.

    The first draft, if there is a describing sentence, asks for it. The reversed question (which thing does
    the sentence describe?) is only put where no other document has the same sentence.
    """
    name, kind = str(document.metadata.get("name", "")), str(document.metadata.get("kind", ""))
    if not is_reference(document) or len(name) > MAX_NAME_CHARS:
        return []
    drafts: list[Draft] = []
    sentence = described_sentence(document)
    if sentence is not None:
        drafts.append(_draft("purpose", _PURPOSE[kind], sentence, name=name))
    head = _head(document)
    line = document.text[head.start : head.end]
    at = line.find(name)
    if at < 0:
        return drafts
    call = line[at:].rstrip(" :")
    if call.startswith(f"{name}(") and call.endswith(")") and len(call) <= MAX_SIGNATURE_CHARS:
        drafts.append(_draft("signature", _SIGNATURE, Span(at, at + len(call)), name=name))
    module = str(document.metadata.get("module", ""))
    if module and name.startswith(f"{module}."):
        package = module.partition(".")[0]
        drafts.append(_draft("package", _PACKAGE, Span(at, at + len(package)), name=name))
        if module != package:
            drafts.append(_draft("module", _MODULE, Span(at, at + len(module)), name=name))
    if sentence is not None and sentence_is_unique:
        wordings = ("Which {kind} is meant: {text}", "What is the name of the {kind}: {text}")
        told = sentence.of(document.text)
        drafts.append(_draft("reverse", wordings, Span(at, at + len(name)), kind=kind, text=told))
    return drafts


def prose_drafts(document: Document) -> Iterator[Draft]:
    """Yield what can be asked about any text: sections, definitions, and sentences to be continued."""
    text = document.text
    clozes: list[Draft] = []
    in_code = False
    for block in paragraphs(text, _head(document).end):
        fences = text.count("```", block.start, block.end)
        was_code, in_code = in_code, in_code != bool(fences % 2)
        if was_code or fences:
            continue
        heading = _HEADING.match(text, block.start)
        if heading is not None:
            yield from _section(text, heading, block)
            continue
        sentence = first_sentence(text, block) if is_prose(text[block.start : block.end]) else None
        if sentence is None or not _fits(sentence.of(text)):
            continue
        definition = _DEFINITION.match(text, sentence.start, sentence.end)
        if definition is not None and words(definition["term"])[0] not in _VAGUE:
            question = f"What {definition['verb']} {_lower_article(fold(definition['term']))}?"
            yield Draft("definition", (question,), sentence)
        else:
            clozes.extend(_cloze(text, sentence))
    yield from clozes


def _section(text: str, heading: re.Match[str], block: Span) -> Iterator[Draft]:
    """Ask for the first sentence below a Markdown heading; it may follow in the same block or in the next."""
    below = next(paragraphs(text, heading.end()), None)
    if below is None or not is_prose(text[below.start : below.end]):
        return
    sentence = first_sentence(text, below)
    if sentence is None or not _fits(sentence.of(text)):
        return
    wordings = ('What does the section "{title}" say?', 'How does the section "{title}" begin?')
    yield _draft("section", wordings, sentence, title=heading["title"])


def _cloze(text: str, sentence: Span) -> Iterator[Draft]:
    """Show half a sentence and ask for the rest; cut between words, or between CJK characters."""
    half = (sentence.start + sentence.end) // 2
    gap = re.compile(r"\s+").search(text, half, sentence.end)
    cut, resume = (gap.start(), gap.end()) if gap is not None else (half, half)
    shown = fold(text[sentence.start : cut])
    if len(words(shown)) >= _MIN_WORDS and words(text[resume : sentence.end]):
        yield Draft(
            "cloze", (f"Continue: {shown}", f"How does this go on? {shown}"), Span(resume, sentence.end)
        )


def _head(document: Document) -> Span:
    """Return the first line if it introduces the thing that the metadata names, else an empty span."""
    name = str(document.metadata.get("name", ""))
    end = document.text.find("\n")
    end = len(document.text) if end < 0 else end
    is_head = bool(name) and name.rpartition(".")[2] in document.text[:end]
    return Span(0, end if is_head else 0)


def _draft(rule: str, wordings: tuple[str, ...], answer: Span, **names: str) -> Draft:
    return Draft(rule, tuple(wording.format(**names) for wording in wordings), answer)


def _is_statement(text: str) -> bool:
    """Return whether a block's first line is words, not another signature or an assignment."""
    line = text.split("\n", 1)[0]
    return not re.match(r"[\w.]+\(|.*(?:->|=)", line)


def _fits(sentence: str) -> bool:
    return _MIN_WORDS <= len(words(sentence)) <= MAX_SENTENCE_WORDS


def _lower_article(term: str) -> str:
    first, _, rest = term.partition(" ")
    return f"{first.lower()} {rest}" if first in ("A", "An", "The") else term
