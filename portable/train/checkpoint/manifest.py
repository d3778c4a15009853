"""The file that seals a checkpoint: how it was made, and the sizes and hashes of all its other files."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import xxhash

from portable.core.storage import read_json, write_json

MANIFEST = "manifest.json"
FORMAT = 2


@dataclass(frozen=True, slots=True)
class Made:
    """How a checkpoint came to be: after ``step`` steps, on ``world_size`` ranks that lay as ``layout`` says.

    ``data`` is the source's position, as far as JSON can tell it, for people to read.
    """

    step: int
    strategy: str
    world_size: int
    layout: dict[str, int]
    data: dict[str, Any]  # Any: JSON values


def write_manifest(folder: Path, made: Made, files: dict[str, dict[str, Any]]) -> None:
    """Seal ``folder``. ``files`` holds what ``fingerprint`` says of each. Raises: StorageError."""
    write_json(
        folder / MANIFEST,
        {"format": FORMAT, **asdict(made), "torch": torch.__version__, "files": files},
    )


def read_manifest(folder: Path) -> tuple[Made, dict[str, dict[str, Any]]]:  # Any: JSON values
    """Return what ``write_manifest`` was given.

    Raises: ValueError, telling what is wrong, if it cannot be read.
    """
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"{MANIFEST} is missing")
    try:
        found = read_json(folder / MANIFEST)
        written_as = found["format"]
        if written_as == FORMAT:
            return Made(**{field.name: found[field.name] for field in fields(Made)}), found["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{MANIFEST} cannot be read: {error!r}") from error
    raise ValueError(f"its format is {written_as}, not {FORMAT}")


def flaw_of(file: Path, wanted: dict[str, Any]) -> str:  # Any: JSON values
    """Return what is wrong with a file that the manifest lists, or ""."""
    if not file.is_file():
        return f"{file.name} is missing"
    if file.stat().st_size != wanted["bytes"] or fingerprint(file) != wanted:
        return f"{file.name} differs from what was written"
    return ""


def fingerprint(file: Path) -> dict[str, Any]:  # Any: JSON values
    """Return the size and the hash of a file."""
    digest = xxhash.xxh3_128()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return {"bytes": file.stat().st_size, "xxh3": digest.hexdigest()}


def json_part(value: Any) -> Any:  # Any: a source's state in, JSON values out
    """Return ``value`` with whatever JSON does not know, such as a tensor, named by its type only."""
    if isinstance(value, dict):
        return {str(key): json_part(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_part(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else f"({type(value).__name__})"
