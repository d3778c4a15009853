"""Bytes of a file, decompressed by its ending, and text from them without ever losing a byte silently."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import IO, cast

from portable.core.errors import DataError
from portable.core.storage import explain_os_errors
from portable.data.format.reader import Quarantine


@contextlib.contextmanager
def open_bytes(file: str) -> Generator[IO[bytes]]:
    """Open a local or remote file for reading; ``.gz``, ``.zst``, ``.bz2`` and ``.xz`` are decompressed on
    the way.

    Raises: DataError if the file is gone, or its compression is damaged.
    """
    import zlib
    from lzma import LZMAError

    import fsspec
    import zstandard

    ending = file.lower().rpartition(".")[2]
    compression = {"gz": "gzip", "bz2": "bz2", "xz": "xz"}.get(ending)
    try:
        with explain_os_errors(file, "read"), fsspec.open(file, "rb", compression=compression) as opened:
            raw = cast("IO[bytes]", opened)  # fsspec annotates a union of all that it may return
            if ending == "zst":
                # Read across frames: files made by concatenation hold several.
                with zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as plain:
                    yield cast("IO[bytes]", plain)  # a binary file in all but its declared type
            else:
                yield raw
    except FileNotFoundError as error:
        raise DataError(
            f"data.source: {file} does not exist any more; check the path and run again"
        ) from error
    except (EOFError, zlib.error, LZMAError, zstandard.ZstdError, OSError) as error:
        raise DataError(
            f"data.source: {file} cannot be decompressed ({error}); it is cut or damaged, fetch it again"
        ) from error


def iter_lines(stream: IO[bytes], chunk_bytes: int = 2**20) -> Iterator[bytes]:
    """Yield the lines of a binary stream without their ends; only "\\n" ends a line, unlike
    ``str.splitlines``.
    """
    rest = b""
    while chunk := stream.read(chunk_bytes):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    if rest:
        yield rest


def decode(raw: bytes, file: str, line: int | None, quarantine: Quarantine) -> str | None:
    """Return ``raw`` as text; bytes that are no UTF-8 go to quarantine, and None comes back."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reason = f"not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}"
        quarantine(file, line, reason, raw[:200].decode("utf-8", "replace"))
        return None


def read_whole(file: str, quarantine: Quarantine) -> str | None:
    """Return the text of a whole file, or None if it is in quarantine."""
    with open_bytes(file) as stream:
        raw = stream.read()
    return decode(raw, file, None, quarantine)
