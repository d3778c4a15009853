"""Markdown: a file is a document, without its front matter and comments."""

from __future__ import annotations

import re
from collections.abc import Iterator

from portable.core.record import Document
from portable.data.config import DataConfig
from portable.data.format.reader import Quarantine, SourceFile
from portable.data.format.stream import read_whole

_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n.*?\r?\n(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_FENCE = re.compile(r"((?:```|~~~).*?(?:```|~~~))", re.DOTALL)
_TITLE = re.compile(r"^#\s+(.+?)\s*#*\s*$", re.MULTILINE)


def read_markdown(file: SourceFile, config: DataConfig, quarantine: Quarantine) -> Iterator[Document]:
    """Yield the file's Markdown, kept as it is but for YAML front matter and HTML comments outside code
    fences.
    """
    raw = read_whole(file.path, quarantine)
    if raw is None:
        return
    parts = _FENCE.split(_FRONT_MATTER.sub("", raw))
    # Odd parts are code fences: what looks like a comment there is an example.
    text = "".join(part if number % 2 else _COMMENT.sub("", part) for number, part in enumerate(parts))
    title = _TITLE.search(text)
    metadata = {
        "source": "files",
        "path": file.name,
        "format": "markdown",
        "title": title[1] if title else "",
    }
    yield Document(text, file.name, metadata)
