"""Files that are either whole or absent, and errors that say which disk and what to do."""

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

from portable.core.errors import StorageError

_REMEDY = {
    errno.ENOSPC: "the disk is full; free some space or set another output folder (output_dir=PATH)",
    errno.EDQUOT: "the quota is used up; free some space or set another output folder (output_dir=PATH)",
    errno.EROFS: "the file system is read-only; set another output folder (output_dir=PATH)",
    errno.EACCES: "permission denied; set an output folder that you may write to (output_dir=PATH)",
    errno.ENOTDIR: "a part of the path is a file; set another output folder (output_dir=PATH)",
    errno.EPERM: "permission denied; set an output folder that you may write to (output_dir=PATH)",
}


@contextlib.contextmanager
def explain_os_errors(path: Path | str, action: str = "write") -> Generator[None]:
    """Turn a full, read-only or forbidden disk into a StorageError that names ``path`` and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REMEDY:
            raise
        raise StorageError(f"cannot {action} {path}: {_REMEDY[error.errno]}") from error


@contextlib.contextmanager
def atomic_path(path: Path) -> Generator[Path]:
    """Yield a temporary path beside ``path``; it takes the name ``path`` only if the block succeeds.

    The bytes are flushed to the disk before the rename, so a crash leaves the old file or the new one.
    """
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:  # Any: any JSON value
    """Write ``value`` as indented JSON with sorted keys, atomically."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:  # Any: any JSON value
    """Read a JSON file."""
    with explain_os_errors(path, "read"):
        return json.loads(path.read_text(encoding="utf-8"))


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as hex."""
    with explain_os_errors(path, "read"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
