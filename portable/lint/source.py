"""A file as text: positions of a syntax tree turned into characters, and text into the bytes it came from."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from portable.core.errors import DataError
from portable.lint.finding import Span

_LINE_END = re.compile(r"\r\n|\r|\n")
# Too deep for the parser is MemoryError, or RecursionError; null bytes are ValueError.
PARSE_ERRORS = (SyntaxError, ValueError, MemoryError, RecursionError)


class Undecodable(DataError):  # noqa: N818 - as BackendUnavailable
    """A file whose bytes are not the text that it says they are; carries the reason."""


@dataclass(frozen=True)
class Source:
    """Text as in the file, line ends included, and the encoding it came in."""

    path: Path
    text: str
    encoding: str = "utf-8"

    @cached_property
    def starts(self) -> list[int]:
        """The offset in characters at which each line begins."""
        return [0, *(end.end() for end in _LINE_END.finditer(self.text))]

    def line(self, number: int) -> str:
        """Return line ``number``, from 1, without its end; "" beyond the last."""
        if not 1 <= number <= len(self.starts):
            return ""
        end = self.starts[number] if number < len(self.starts) else len(self.text)
        return self.text[self.starts[number - 1] : end].rstrip("\r\n")

    def offset(self, line: int, utf8_column: int) -> int:
        """Return the offset of a syntax tree's position: columns there count the bytes of UTF-8."""
        text = self.line(line)
        if text.isascii():
            return self.starts[line - 1] + utf8_column
        return self.starts[line - 1] + len(text.encode()[:utf8_column].decode(errors="ignore"))

    def bounds(self, node: ast.AST) -> tuple[int, int]:
        """Return where ``node`` begins and ends, in characters."""
        start = self.offset(getattr(node, "lineno", 1), getattr(node, "col_offset", 0))
        line, column = getattr(node, "end_lineno", None), getattr(node, "end_col_offset", None)
        return start, start if line is None or column is None else self.offset(line, column)

    def span(self, node: ast.AST) -> Span:
        """Return where ``node`` stands, in lines and columns."""
        start, end = self.bounds(node)
        return Span(*self._position(start), *self._position(end))

    def encode(self, text: str) -> bytes:
        """Return ``text`` in the file's encoding, its byte order mark included."""
        return text.encode(self.encoding)

    def _position(self, offset: int) -> tuple[int, int]:
        line = bisect_right(self.starts, offset)
        return line, offset - self.starts[line - 1]


def read_source(path: Path) -> Source:
    """Read a Python file in the encoding it declares (PEP 263).

    Raises: OSError; Undecodable if there is no such encoding, or the bytes do not fit it.
    """
    data = path.read_bytes()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        return Source(path, data.decode(encoding), encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        raise Undecodable(str(error)) from error


def parse(text: str, *, notebook: bool = False) -> ast.Module:
    """Parse without the warnings that odd literals cause.

    Raises: one of PARSE_ERRORS.
    """
    flags = ast.PyCF_ONLY_AST | (ast.PyCF_ALLOW_TOP_LEVEL_AWAIT if notebook else 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = compile(text, "<source>", "exec", flags, dont_inherit=True)
    if not isinstance(tree, ast.Module):
        raise ValueError("not a module")
    return tree
