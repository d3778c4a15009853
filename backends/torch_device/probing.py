"""Asking a driver's library through ctypes: whether a chip can be used, not whether a package imports."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from pathlib import Path


def load_library(*names: str) -> ctypes.CDLL | str:
    """Return the first library that loads, or the loader's last complaint."""
    complaint = f"no library named {' or '.join(names)}"
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            complaint = str(error)
    return complaint


def existing(patterns: Iterable[str], root: Path) -> list[str]:
    """Return what is there of the absolute glob ``patterns`` under ``root``."""
    return [
        f"/{path.relative_to(root)}"
        for pattern in patterns
        for path in sorted(root.glob(pattern.lstrip("/")))
    ]


def hides_all(value: str | None) -> bool:
    """Return whether a variable that narrows the visible devices is set and leaves none."""
    return value is not None and value.strip() in ("", "-1", "NoDevFiles")
