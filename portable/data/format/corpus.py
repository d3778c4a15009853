"""Documents as a corpus keeps them: zstd-compressed JSON Lines of ``{"id", "text", "metadata"}``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import zstandard

from portable.core.errors import ArtefactError
from portable.core.record import Document
from portable.core.storage import atomic_path, explain_os_errors
from portable.data.format.stream import iter_lines

_LEVEL = 6


class LineWriter:
    """Writes JSON lines into a ``.zst`` file that exists only once the block around it ends well."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.path))
            file = stack.enter_context(temporary.open("wb"))
            compressor = zstandard.ZstdCompressor(level=_LEVEL)
            self._stream = stack.enter_context(compressor.stream_writer(file, closefd=False))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:  # Any: the three of the protocol, passed through
        self._stack.__exit__(*exception)

    def write(self, line: dict[str, Any]) -> None:  # Any: JSON values
        """Append one line."""
        self._stream.write(json.dumps(line, ensure_ascii=False, sort_keys=True).encode() + b"\n")

    def write_document(self, document: Document) -> None:
        """Append a document."""
        self.write({"id": document.id, "text": document.text, "metadata": document.metadata})


def read_lines(path: Path) -> Iterator[dict[str, Any]]:  # Any: JSON values
    """Yield the lines of a ``.zst`` file that ``LineWriter`` wrote.

    Raises: ArtefactError if it is missing or damaged.
    """
    if not path.is_file():
        raise ArtefactError(f"{path} does not exist; name a corpus that a data stage wrote")
    try:
        with (
            explain_os_errors(path, "read"),
            path.open("rb") as file,
            zstandard.ZstdDecompressor().stream_reader(file) as stream,
        ):
            for line in iter_lines(stream):
                yield json.loads(line)
    except (zstandard.ZstdError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtefactError(
            f"{path} is damaged ({error}); delete the corpus and run the data stage again"
        ) from error


def read_documents(path: Path) -> Iterator[Document]:
    """Yield the documents of a corpus file, e.g. ``documents/train.jsonl.zst``."""
    for line in read_lines(path):
        yield Document(line["text"], line["id"], line["metadata"])
