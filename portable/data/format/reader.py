"""From a path or glob to documents, whatever the format."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from portable.core.errors import DataError
from portable.core.record import Document
from portable.core.storage import explain_os_errors
from portable.data.config import DataConfig
from portable.data.registry import DATA_FORMATS, DATA_SOURCES

COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz")


class Quarantine(Protocol):
    """Takes what could not be read: counted and written down, or fatal when the run is strict."""

    def __call__(self, file: str, line: int | None, reason: str, text: str) -> None:
        """Record one broken piece; ``line`` counts from 1 and is None where a whole file is broken.

        Raises: DataError if ``data.strict=true``.
        """
        ...


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to read: where it is, and its ``name`` within the source, which ids are made of.

    Names do not tell where the source lies, so moving it changes neither ids nor the held-out split.
    """

    path: str
    name: str


FileReader = Callable[[SourceFile, DataConfig, Quarantine], Iterator[Document]]


def read_source(config: DataConfig, quarantine: Quarantine) -> Iterator[Document]:
    """Yield the documents of ``data.source`` in an order that depends on names only.

    Raises: DataError if nothing matches, or a file has an ending that no format claims.
    """
    if config.source in DATA_SOURCES:
        yield from DATA_SOURCES.get(config.source)(config, quarantine)
        return
    for path in find_files(config.source):
        file = SourceFile(path, name_within(path, config.source))
        yield from format_of(path)(file, config, quarantine)


def find_files(source: str) -> list[str]:
    """Return the files that a path, folder or glob names, sorted.

    Raises: DataError if there is none.
    """
    import fsspec

    with explain_os_errors(source, "read"):
        system, path = fsspec.core.url_to_fs(source)
        if glob.has_magic(path):
            found = [name for name in system.glob(path) if system.isfile(name)]
        elif system.isdir(path):
            # A folder means: every file in it, at any depth, whose ending we know.
            found = [name for name in system.find(path) if ending_of(name) in DATA_FORMATS]
        else:
            found = [path] if system.isfile(path) else []
    if found:
        return sorted(str(system.unstrip_protocol(name)) if "://" in source else name for name in found)
    sources = ", ".join(DATA_SOURCES)
    endings = ", ".join(f".{name}" for name in DATA_FORMATS)
    raise DataError(
        f"data.source={source} matches no file; name a file, a folder, a glob such as 'texts/**/*.md' "
        f"(readable endings: {endings}, also with .gz or .zst), or a registered source ({sources})"
    )


def name_within(file: str, source: str) -> str:
    """Return the path of ``file`` below the folder of ``source``, or the part before its first wildcard."""
    import fsspec

    system, path = fsspec.core.url_to_fs(source)
    if glob.has_magic(path):
        root = re.split(r"[*?\[]", path, maxsplit=1)[0].rpartition("/")[0]
    else:
        root = path if system.isdir(path) else path.rpartition("/")[0]
    return str(fsspec.core.url_to_fs(file)[1]).removeprefix(root).lstrip("/")


def format_of(file: str) -> FileReader:
    """Return the reader that a file's ending asks for. Raises: DataError with the endings known."""
    ending = ending_of(file)
    if ending not in DATA_FORMATS:
        endings = ", ".join(f".{name}" for name in DATA_FORMATS)
        raise DataError(
            f"data.source: no format reads {file} (ending '.{ending}'); readable endings are {endings}, "
            f"all but .parquet also with {', '.join(COMPRESSIONS)}; rename or convert it, or narrow the glob"
        )
    return DATA_FORMATS.get(ending)


def ending_of(file: str) -> str:
    """Return the ending that names the format, in lower case: ``jsonl`` for ``a/b.JSONL.zst``."""
    name = PurePosixPath(file.lower())
    if name.suffix in COMPRESSIONS:
        name = PurePosixPath(name.stem)
    return name.suffix.removeprefix(".")
