"""Plain text: a file is a document."""

from __future__ import annotations

from collections.abc import Iterator

from portable.core.record import Document
from portable.data.config import DataConfig
from portable.data.format.reader import Quarantine, SourceFile
from portable.data.format.stream import read_whole


def read_text(file: SourceFile, config: DataConfig, quarantine: Quarantine) -> Iterator[Document]:
    """Yield the file's text; its id is its name within the source."""
    text = read_whole(file.path, quarantine)
    if text is not None:
        yield Document(text, file.name, {"source": "files", "path": file.name, "format": "text"})
