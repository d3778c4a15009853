"""HTML: a page is a document, its main text without menus, banners and footers."""

from __future__ import annotations

from collections.abc import Iterator

import trafilatura

from portable.core.record import Document
from portable.data.config import DataConfig
from portable.data.format.reader import Quarantine, SourceFile
from portable.data.format.stream import open_bytes


def read_html(file: SourceFile, config: DataConfig, quarantine: Quarantine) -> Iterator[Document]:
    """Yield the page's main text (trafilatura). The page's own declaration decides its encoding, as in a
    browser.

    A page without any main text goes to quarantine.
    """
    with open_bytes(file.path) as stream:
        raw = stream.read()
    text = trafilatura.extract(raw, include_comments=False, include_tables=True, deduplicate=False)
    if not text:
        quarantine(file.path, None, "no main text found in the page", raw[:200].decode("utf-8", "replace"))
        return
    yield Document(text, file.name, {"source": "files", "path": file.name, "format": "html"})
