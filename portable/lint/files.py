"""The files to read: Python, stubs left out, and notebooks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from portable.core.errors import DataError
from portable.lint.settings import SKIPPED, Override, Settings, settings_for

SUFFIXES = {".py", ".pyw", ".ipynb"}


def find_files(paths: list[Path], override: Override) -> list[tuple[Path, Settings]]:
    """Return the files of ``paths``, sorted, with the settings of each. A file that is named is always taken.

    Raises: DataError if a path does not exist.
    """
    found: dict[Path, Settings] = {}
    for path in paths:
        if path.is_dir():
            for file, settings in _below(path, override):
                found.setdefault(file, settings)
        elif path.exists():
            found.setdefault(path, override.apply(settings_for(path.absolute().parent)))
        else:
            raise DataError(f"{path} does not exist; give files or folders")
    return sorted(found.items())


def package_of(path: Path) -> str:
    """Return the top-level package that ``path`` is part of: the highest in a row with ``__init__.py``."""
    package, folder = "", path.absolute().parent
    while (folder / "__init__.py").is_file():
        package, folder = folder.name, folder.parent
    return package


def _below(top: Path, override: Override) -> Iterator[tuple[Path, Settings]]:
    for name, folders, files in os.walk(top):
        folder = Path(name)
        settings = override.apply(settings_for(folder.absolute()))
        folders[:] = [item for item in folders if not _is_skipped(folder / item, settings)]
        for item in files:
            path = folder / item
            if path.suffix in SUFFIXES and path.is_file() and not settings.excludes(path):
                yield path, settings


def _is_skipped(folder: Path, settings: Settings) -> bool:
    is_environment = (folder / "pyvenv.cfg").is_file() or (folder / "conda-meta").is_dir()
    return folder.name in SKIPPED or is_environment or settings.excludes(folder)
