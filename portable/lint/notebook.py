"""The code cells of a Jupyter notebook as one Python text, magic commands blanked out."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portable.lint.finding import Span
from portable.lint.source import PARSE_ERRORS, Source, Undecodable, parse

_MAGIC = re.compile(r"^(\s*)(?:[%!?].*|[\w.]+\?{1,2}\s*|\w+\s*=\s*[%!].*)$")


@dataclass(frozen=True)
class Notebook:
    """One text of all cells that parse, so that names of one are known in the next."""

    source: Source
    starts: tuple[int, ...]  # the line, from 1, at which each cell begins
    broken: tuple[tuple[int, int, str], ...]  # cell, line in it, reason

    def cell_of(self, line: int) -> int:
        """Return the number, from 1, of the cell that holds ``line``."""
        return sum(start <= line for start in self.starts)

    def place(self, span: Span) -> tuple[int, Span]:
        """Return the cell of ``span``, and the span with lines counted inside it."""
        cell = self.cell_of(span.line)
        before = self.starts[cell - 1] - 1
        return cell, Span(span.line - before, span.column, span.end_line - before, span.end_column)


def read_notebook(path: Path) -> Notebook:
    """Read the code cells.

    Raises: OSError; Undecodable if the file is no notebook.
    """
    try:
        content = json.loads(path.read_bytes())
        kernel = content.get("metadata", {}).get("kernelspec", {})
        is_python = kernel.get("language", "python") == "python"
        cells = [_code(cell) for cell in content["cells"] if is_python and cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Undecodable(f"not a notebook of format 4: {error!r}") from error
    texts: list[str] = []
    starts: list[int] = []
    broken: list[tuple[int, int, str]] = []
    line = 1
    for number, text in enumerate(cells, 1):
        try:
            parse(text, notebook=True)
        except PARSE_ERRORS as error:
            broken.append((number, getattr(error, "lineno", None) or 1, str(getattr(error, "msg", error))))
            text = "\n" * text.count("\n")
        texts.append(text)
        starts.append(line)
        line += text.count("\n") + 1
    return Notebook(Source(path, "\n".join(texts)), tuple(starts), tuple(broken))


def _code(cell: dict[str, Any]) -> str:
    source = cell["source"]
    text = "".join(source) if isinstance(source, list) else str(source)
    lines = text.replace("\r\n", "\n").split("\n")
    if lines and lines[0].startswith("%%"):  # a cell for another program
        return "\n" * (len(lines) - 1)
    return "\n".join(_MAGIC.sub(r"\1pass", line) for line in lines)
