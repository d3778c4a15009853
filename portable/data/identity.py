"""Whether an input is still the one that was read before, without reading it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from portable.core.storage import explain_os_errors, file_digest
from portable.data.config import DataConfig
from portable.data.format.reader import find_files
from portable.data.registry import DATA_SOURCES
from portable.model.tokenizer import TOKENIZER_FILES


def source_identity(config: DataConfig) -> list[list[str]]:
    """Return rows that change when the input does: name, size and time of every file; or versions, for a
    source that reads installed packages; and the hash of a tokenizer that is taken.

    Raises: DataError if nothing matches ``data.source``.
    """
    rows = _tokenizer_rows(config.tokenizer.path)
    if config.source in DATA_SOURCES:
        return [
            *rows,
            ["python", platform.python_version()],
            *([name, _version(name)] for name in config.python_docs.packages),
        ]
    import fsspec

    for file in find_files(config.source):
        with explain_os_errors(file, "read"):
            system, path = fsspec.core.url_to_fs(file)
            info = system.info(path)
        # Local files carry mtime; object stores an ETag, which changes with the content.
        stamp = next((str(info[key]) for key in ("ETag", "etag", "mtime", "LastModified") if key in info), "")
        rows.append([file, str(info.get("size")), stamp])
    return rows


def _tokenizer_rows(path: str) -> list[list[str]]:
    """Return the files of a tokenizer that is taken as it is, with their hashes."""
    files = [Path(path) / name for name in TOKENIZER_FILES if path]
    return [[str(file), file_digest(file)] for file in files if file.is_file()]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
