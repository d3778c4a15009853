"""Which file of ``conf/hardware`` describes a chip that was found."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from portable.config.search_path import conf_dir
from portable.device.backend import Finding, Level

_SAME_MEMORY = 0.15  # drivers keep some of it, and makers count in powers of ten or of two
_FORM_FACTORS = ("SXM", "PCIE")


@dataclass(frozen=True, slots=True)
class Chip:
    """A chip as its driver describes it; "" and 0 stand for what the driver does not tell."""

    arch: str
    name: str = ""
    memory_bytes: int = 0


def hardware_for(backend: str, chip: Chip, folder: Path | None = None) -> str:
    """Return the name of the file whose figures are the chip's, else ``backend``: the file without figures.

    Arch, and what is known of model, form factor and memory, must all agree: figures of a sister chip would
    make every utilisation that is computed from them wrong.
    """
    files = sorted((folder or conf_dir() / "hardware").glob("*.yaml"))
    records = [yaml.safe_load(file.read_text(encoding="utf-8"))["hardware"] for file in files]
    fitting = [
        record
        for record in records
        if record["backend"] == backend and record.get("arch") == chip.arch and _fits(record, chip)
    ]
    return fitting[0]["name"] if fitting else backend


def _fits(record: dict[str, Any], chip: Chip) -> bool:  # Any: YAML values
    gib = record.get("memory_gib", {}).get("value")
    if chip.memory_bytes and gib and abs(chip.memory_bytes / 2**30 - gib) > _SAME_MEMORY * gib:
        return False
    words = re.findall(r"[A-Z0-9]+", chip.name.upper())
    if not words:
        return True
    model = record["name"].rpartition("_")[2].upper()
    title = record["title"].upper()
    clash = any(
        form in title and other in words for form in _FORM_FACTORS for other in _FORM_FACTORS if form != other
    )
    return model in words and not clash


def without_figures(backend: str, hardware: str) -> list[Finding]:
    """Return what to tell where no file describes the chip: ``hardware_for`` answered ``backend`` itself."""
    if hardware != backend:
        return []
    text = "no file of conf/hardware has this chip's figures, so no utilisation is reported on it"
    return [Finding(Level.note, "figures", text, "write one, with sources: docs/add-a-backend.md")]
