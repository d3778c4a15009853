"""Lint a piece of code, and say what was found where."""

from __future__ import annotations

import textwrap
from pathlib import Path

from portable.lint.finding import Finding
from portable.lint.rule import load_catalogue
from portable.lint.run import lint_source
from portable.lint.settings import Settings
from portable.lint.source import Source


def findings(code: str, settings: Settings | None = None) -> list[Finding]:
    """Return what is found in ``code``, which may be indented as a whole."""
    text = textwrap.dedent(code).lstrip("\n")
    return lint_source(Source(Path("example.py"), text), settings or Settings(), load_catalogue())


def found(code: str, settings: Settings | None = None) -> list[tuple[int, str]]:
    """Return (line, rule) for each finding in ``code``."""
    return [(finding.span.line, finding.rule) for finding in findings(code, settings)]


def expected(code: str) -> list[tuple[int, str]]:
    """Return (line, rule) for each comment ``# P01`` or ``# P01 P02`` at the end of a line of ``code``."""
    lines = textwrap.dedent(code).lstrip("\n").splitlines()
    marks = [(number, line.rpartition("  # ")[2]) for number, line in enumerate(lines, 1) if "  # " in line]
    return [(number, rule) for number, mark in marks for rule in mark.split()]
