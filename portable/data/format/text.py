"""Plain text: a file is a document."""

from __future__ import annotations

from collections.abc import Iterator

from portable.core.record import Document
from portable.data.config import DataConfig
from portable.data.format.reader import Quarantine
from portable.data.format.stream import read_whole


def read_text(file: str, config: DataConfig, quarantine: Quarantine) -> Iterator[Document]:
    """Yield the file's text; its id is the path as given."""
    text = read_whole(file, quarantine)
    if text is not None:
        yield Document(text, file, {"source": config.source, "path": file, "format": "text"})
