"""A source tree as the architecture rules see it: files, their lines, their syntax trees."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True, order=True)
class Violation:
    """One place that breaks one rule."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


@dataclass(frozen=True)
class SourceFile:
    """A Python file below the root. ``name`` is its path from there, with slashes."""

    name: str
    text: str

    @cached_property
    def syntax(self) -> ast.Module:
        """The parsed file."""
        return ast.parse(self.text, self.name)

    @property
    def num_lines(self) -> int:
        """Physical lines."""
        return len(self.text.splitlines())

    @property
    def package(self) -> str:
        """The room of the house: the second part of the path, or "" for a file at the top of ``portable``."""
        parts = self.name.split("/")
        return parts[1] if len(parts) > 2 else ""

    def at(self, node: ast.AST, message: str) -> Violation:
        """Return a violation at ``node``."""
        return Violation(self.name, getattr(node, "lineno", 1), message)

    def nodes(self) -> Iterator[ast.AST]:
        """Walk the syntax tree."""
        return ast.walk(self.syntax)

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        """Walk all functions and methods, nested ones too."""
        return (node for node in self.nodes() if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))

    def imports(self) -> Iterator[tuple[ast.AST, str]]:
        """Walk all imported module names: at the top, in functions, for type checking, by literal text."""
        for node in self.nodes():
            if isinstance(node, ast.Import):
                yield from ((node, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                origin = self._absolute(node)
                yield from ((node, f"{origin}.{alias.name}") for alias in node.names)
            elif isinstance(node, ast.Call) and last_name(node.func) in {"import_module", "__import__"}:
                yield from ((node, arg.value) for arg in node.args[:1] if is_text(arg))

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        base = self.name.removesuffix(".py").split("/")[: -node.level]
        return ".".join([*base, *([node.module] if node.module else [])])


@dataclass(frozen=True)
class SourceTree:
    """The repository, or a copy with a fault planted in it."""

    root: Path
    _cache: dict[str, list[SourceFile]] = field(default_factory=dict)

    def files(self, top: str) -> list[SourceFile]:
        """Return the Python files below the folder ``top``, in order."""
        if top not in self._cache:
            paths = sorted((self.root / top).rglob("*.py"))
            self._cache[top] = [
                SourceFile(path.relative_to(self.root).as_posix(), path.read_text(encoding="utf-8"))
                for path in paths
            ]
        return self._cache[top]


def last_name(node: ast.AST) -> str:
    """Return the last identifier of a dotted expression: "config" for ``self.config``, else ""."""
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""


def is_text(node: ast.AST) -> bool:
    """Return whether ``node`` is a literal string."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
