"""What the linter says of one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True, slots=True)
class Edit:
    """Replace the characters ``start`` to ``end`` of a text by ``new``."""

    start: int
    end: int
    new: str


@dataclass(frozen=True, slots=True)
class Fix:
    """Edits that mend a finding. Safe: on the hardware it was written for, the code does what it did."""

    edits: tuple[Edit, ...]
    safe: bool


@dataclass(frozen=True, order=True, slots=True)
class Span:
    """A place in a text: lines from 1, columns from 0 in characters, the end excluded."""

    line: int
    column: int
    end_line: int
    end_column: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule broken at one place. In a notebook ``cell`` counts code cells from 1, and lines are its."""

    path: str
    span: Span
    rule: str
    severity: str
    message: str
    remedy: str
    source: str = ""  # the first line of the place
    cell: int = 0
    fix: Fix | None = None

    @property
    def place(self) -> str:
        """Return ``path:line:column``, the column from 1."""
        cell = f"cell {self.cell}:" if self.cell else ""
        return f"{self.path}:{cell}{self.span.line}:{self.span.column + 1}"
