"""Checkpoint folders on disk: ``step-00000120/`` holds ``manifest.json``, written last, and what it lists.

A folder is written under a hidden name and renamed when its manifest stands in it, so any folder with the
final name was complete once; sizes and hashes in the manifest tell whether it still is.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash

from portable.core.storage import explain_os_errors, read_json, write_json

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"
FORMAT = 1
_FINAL = re.compile(r"step-(\d{8,})")
_PARTIAL = ".partial-"


@dataclass(frozen=True, slots=True)
class CheckpointFolder:
    """A complete checkpoint: ``shape_digest`` identifies the model and optimiser that it belongs to."""

    path: Path
    step: int
    shape_digest: str
    world_size: int


def final_path(root: Path, step: int) -> Path:
    """Return where the checkpoint of ``step`` stands once it is complete."""
    return root / f"step-{step:08d}"


def partial_path(root: Path, step: int) -> Path:
    """Return where it is written."""
    return root / f"{_PARTIAL}step-{step:08d}"


def begin(root: Path, step: int) -> Path:
    """Return an empty folder to write the checkpoint of ``step`` into. Raises: StorageError."""
    path = partial_path(root, step)
    with explain_os_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
    return path


def commit(root: Path, step: int, shape_digest: str, world_size: int, keep: int) -> CheckpointFolder:
    """Seal what was written for ``step`` and let it take its final name; then delete all but the ``keep``
    newest.
    """
    partial, final = partial_path(root, step), final_path(root, step)
    with explain_os_errors(root):
        files = {
            file.name: {"bytes": file.stat().st_size, "xxh3": _digest(file)}
            for file in sorted(partial.iterdir())
        }
        manifest = {
            "format": FORMAT,
            "step": step,
            "shape_digest": shape_digest,
            "world_size": world_size,
            "torch": torch.__version__,
            "files": files,
        }
        write_json(partial / MANIFEST, manifest)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _sync_folder(root)
        for _, old in sorted(_numbered(root))[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    return CheckpointFolder(final, step, shape_digest, world_size)


def newest(root: Path) -> CheckpointFolder | None:
    """Return the newest checkpoint that is whole; each newer one that is not is reported and passed over."""
    for _, path in sorted(_numbered(root), reverse=True):
        flaw, manifest = _inspect(path)
        if not flaw:
            return CheckpointFolder(path, manifest["step"], manifest["shape_digest"], manifest["world_size"])
        logger.warning("checkpoint %s is not whole (%s); looking for an older one", path, flaw)
    return None


def sweep(root: Path) -> None:
    """Delete what killed runs left half written."""
    for path in root.glob(f"{_PARTIAL}*"):
        logger.warning("checkpoint %s was still being written when its run ended; deleting it", path.name)
        with explain_os_errors(path, "delete"):
            shutil.rmtree(path)


def _numbered(root: Path) -> list[tuple[int, Path]]:
    matches = ((_FINAL.fullmatch(path.name), path) for path in root.glob("step-*"))
    return [(int(match.group(1)), path) for match, path in matches if match is not None]


def _inspect(path: Path) -> tuple[str, dict[str, Any]]:  # Any: the manifest's JSON
    """Return what is wrong with the folder, or "", and its manifest."""
    if not (path / MANIFEST).is_file():
        return f"{MANIFEST} is missing", {}
    try:
        manifest = read_json(path / MANIFEST)
        if manifest["format"] != FORMAT:
            return f"its format is {manifest['format']}, not {FORMAT}", {}
        for name, wanted in manifest["files"].items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing", {}
            if file.stat().st_size != wanted["bytes"] or _digest(file) != wanted["xxh3"]:
                return f"{name} differs from what was written", {}
    except (ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} cannot be read: {error}", {}
    return "", manifest


def _digest(file: Path) -> str:
    digest = xxhash.xxh3_128()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def _sync_folder(path: Path) -> None:
    """Make a rename survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
