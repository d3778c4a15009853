"""How one documented thing becomes a page."""

from __future__ import annotations

from dataclasses import dataclass

from portable.core.record import Document

_MAX_SIGNATURE = 240


@dataclass(frozen=True, slots=True)
class Entry:
    """A documented thing as it was found.

    ``name`` is what a reader would write: ``str.join``, ``json.dumps``, ``collections.Counter.update``.
    ``kind`` is topic, module, class, function or method; ``doc`` is the docstring without its indentation;
    ``signature`` starts with "(" or is empty where none is known.
    """

    name: str
    module: str
    kind: str
    doc: str
    signature: str = ""


def make_page(entry: Entry) -> Document:
    """Lay out an entry: a headline (name and signature), an empty line, the docstring.

    Topics of the language reference keep their own headline; ids are "python_docs/kind/name".
    """
    metadata = {
        "source": "python_docs",
        "name": entry.name,
        "module": entry.module,
        "kind": entry.kind,
        "signature": entry.signature,
    }
    text = entry.doc if entry.kind == "topic" else f"{_headline(entry)}\n\n{entry.doc}"
    return Document(text, f"python_docs/{entry.kind}/{entry.name}", metadata)


def shorten_signature(long: str, names_only: str) -> str:
    """Return ``long``, or ``names_only`` where the first would fill a paragraph, cut after an argument if
    need be.
    """
    if len(long) <= _MAX_SIGNATURE:
        return long
    if len(names_only) <= _MAX_SIGNATURE:
        return names_only
    return names_only[:_MAX_SIGNATURE].rpartition(",")[0] + ", ...)"


def _headline(entry: Entry) -> str:
    word = {"module": "module ", "class": "class "}.get(entry.kind, "")
    return f"{word}{entry.name}{entry.signature}"
