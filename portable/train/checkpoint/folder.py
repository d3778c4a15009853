"""Checkpoint folders on disk: ``step-00000120/`` holds ``manifest.json``, written last, and what it lists.

A folder is written under a hidden name and renamed when its manifest stands in it, so any folder with the
final name was complete once; sizes and hashes in the manifest tell whether it still is.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

from portable.core.storage import explain_os_errors
from portable.train.checkpoint.manifest import Made, fingerprint, flaw_of, read_manifest, write_manifest

logger = logging.getLogger(__name__)
_FINAL = re.compile(r"step-(\d{8,})")
_OWNED = re.compile(r"(?:__|host-)(\d+)\D.*")  # the names that torch and we give to a rank's own files
_CONTENTS = ".metadata"  # torch's list of what the files hold, written by the first rank
_PARTIAL = ".partial-"


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


def fingerprints(folder: Path, rank: int) -> dict[str, dict[str, Any]]:  # Any: JSON values
    """Return sizes and hashes of the files that ``rank`` wrote into ``folder``."""
    with explain_os_errors(folder, "read"):
        own = [file for file in folder.iterdir() if _owner(file) == rank]
        return {file.name: fingerprint(file) for file in own}


def commit(root: Path, made: Made, files: dict[str, dict[str, Any]], keep: int) -> Path:
    """Seal what was written and let it take its final name; then delete all but the ``keep`` newest."""
    partial, final = partial_path(root, made.step), final_path(root, made.step)
    with explain_os_errors(root):
        write_manifest(partial, made, files)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _sync_folder(root)
        for old in candidates(root)[keep:]:
            shutil.rmtree(old, ignore_errors=True)
    return final


def candidates(root: Path) -> list[Path]:
    """Return the folders that were complete once, the newest first."""
    matches = ((_FINAL.fullmatch(path.name), path) for path in root.glob("step-*"))
    numbered = [(int(match.group(1)), path) for match, path in matches if match is not None]
    return [path for _, path in sorted(numbered, reverse=True)]


def inspect(folder: Path, rank: int = 0, size: int = 1) -> str:
    """Return what is wrong with ``folder``, or ""; of ``size`` ranks each hashes its share of the files."""
    try:
        _, files = read_manifest(folder)
        with explain_os_errors(folder, "read"):
            flaws = (flaw_of(folder / name, files[name]) for name in sorted(files)[rank::size])
            return next(filter(None, flaws), "")
    except (ValueError, KeyError, TypeError) as error:
        return str(error)


def sweep(root: Path) -> None:
    """Delete what killed runs left half written."""
    for path in root.glob(f"{_PARTIAL}*"):
        logger.warning("checkpoint %s was still being written when its run ended; deleting it", path.name)
        with explain_os_errors(path, "delete"):
            shutil.rmtree(path)


def _owner(file: Path) -> int | None:
    """Return the rank that wrote ``file``; None for one that another rank is writing under another name."""
    match = _OWNED.fullmatch(file.name)
    if match is not None:
        return int(match.group(1))
    return 0 if file.name == _CONTENTS else None


def _sync_folder(path: Path) -> None:
    """Make a rename survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
