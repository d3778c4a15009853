"""Sizes and times as people read and write them."""

import re

_UNITS = {
    "": 1,
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)},
    **{f"{letter}IB": 1024**power for power, letter in enumerate("KMGT", 1)},
}


def parse_bytes(text: str) -> int | None:
    """Return what ``2GiB``, ``512 MB`` or a plain number means, or None if it is no size."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2].upper() not in _UNITS:
        return None
    return int(float(match[1]) * _UNITS[match[2].upper()])


def format_bytes(count: float) -> str:
    """Return e.g. ``3.4 GiB``; binary units."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def format_count(count: float) -> str:
    """Return e.g. ``3.4M``; decimal units."""
    for unit in ("", "K", "M", "B"):
        if abs(count) < 1000 or unit == "B":
            return f"{count:.0f}" if unit == "" else f"{count:.2f}".rstrip("0").rstrip(".") + unit
        count /= 1000
    return f"{count:.2f}T"


def format_seconds(seconds: float) -> str:
    """Return e.g. ``2 min 05 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
