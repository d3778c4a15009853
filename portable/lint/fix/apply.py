"""Apply the fixes of a file, again and again until none is left, and show or write the result."""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from portable.core.errors import StorageError
from portable.lint.finding import Edit, Finding
from portable.lint.rule import load_catalogue
from portable.lint.run import lint_source
from portable.lint.settings import Settings
from portable.lint.source import PARSE_ERRORS, Source, Undecodable, parse, read_source

_MAX_ROUNDS = 10  # edits inside one another wait for the next round


@dataclass(frozen=True, slots=True)
class Mended:
    """A file before and after."""

    before: Source
    after: Source
    num_fixes: int


def mend(path: Path, settings: Settings, *, unsafe: bool = False) -> Mended | None:
    """Return ``path`` with its fixes applied, nothing written; None if there is nothing to mend.

    Raises: OSError.
    """
    if path.suffix == ".ipynb":
        return None
    try:
        source = read_source(path)
    except Undecodable:
        return None
    mended, total = source, 0
    for _ in range(_MAX_ROUNDS):
        text, count = _one_round(mended, lint_source(mended, settings, load_catalogue()), unsafe)
        if not count or not _parses(text):
            break
        mended, total = replace(mended, text=text), total + count
    return Mended(source, mended, total) if total else None


def diff(mended: Mended) -> str:
    """Return the change as a unified diff."""
    name = mended.before.path.as_posix()
    old, new = (source.text.splitlines(keepends=True) for source in (mended.before, mended.after))
    lines = difflib.unified_diff(old, new, name, name)
    return "".join(
        line if line.endswith(("\n", "\r")) else line + "\n\\ No newline at end of file\n" for line in lines
    )


def write(mended: Mended) -> None:
    """Replace the file in one step, its permissions kept.

    Raises: StorageError if the folder cannot be written to.
    """
    path = mended.before.path.resolve()
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(mended.after.encode(mended.after.text))
        Path(name).chmod(path.stat().st_mode)
        Path(name).replace(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error


def _one_round(source: Source, findings: Iterable[Finding], unsafe: bool) -> tuple[str, int]:
    chosen: list[Edit] = []
    count = 0
    for finding in findings:
        fix = finding.fix
        if fix is None or not (fix.safe or unsafe) or any(_overlap(a, b) for a in fix.edits for b in chosen):
            continue
        chosen += fix.edits
        count += 1
    text = source.text
    for edit in sorted(chosen, reverse=True):
        text = text[: edit.start] + edit.new + text[edit.end :]
    return text, count


def _overlap(a: Edit, b: Edit) -> bool:
    return a.start <= b.end and b.start <= a.end


def _parses(text: str) -> bool:
    try:
        parse(text)
    except PARSE_ERRORS:
        return False
    return True
