"""One Python file as the checks see it: a syntax tree walked once, with its names resolved."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from portable.lint.scope import Scope


class Site(NamedTuple):
    """An expression and the scope it stands in."""

    node: ast.expr
    scope: Scope


class CallSite(NamedTuple):
    """A call and the scope it stands in."""

    node: ast.Call
    scope: Scope


@dataclass(frozen=True, slots=True)
class Import:
    """An import of ``module`` ("a.b" for ``import a.b`` and for ``from a import b``), bound to ``name``."""

    node: ast.Import | ast.ImportFrom
    module: str
    name: str


@dataclass(frozen=True, slots=True)
class Key:
    """A text used as a key: ``owner[key]``, ``owner.get(key)``, ``{key: ...}``, ``key in owner``."""

    node: ast.expr | ast.keyword
    scope: Scope
    owner: ast.expr | None = None
    writes: bool = False


class Module:
    """What ``portable.lint.walk`` finds. All lists are in no particular order."""

    def __init__(self, tree: ast.Module, path: str, package: str = "") -> None:
        self.tree = tree
        self.path = path
        self.package = package  # the top-level package that the file is part of
        self.scope = Scope(tree)
        self.parents: dict[ast.AST, ast.AST] = {}
        self.chains: list[Site] = []  # names and dotted names that are used, outermost attribute only
        self.call_sites: list[CallSite] = []
        self.values: dict[str, list[Site]] = defaultdict(list)  # what is given to a name, in lower case
        self.imports: list[Import] = []
        self.comparisons: list[tuple[ast.Compare | ast.Match, Scope]] = []
        self.keys: list[Key] = []

    @cached_property
    def references(self) -> dict[str, list[ast.expr]]:
        """Every expression that certainly names something imported, by its dotted name."""
        found: dict[str, list[ast.expr]] = defaultdict(list)
        for node, scope in self.chains:
            if name := scope.dotted(node):
                found[name].append(node)
        return found

    @cached_property
    def calls(self) -> dict[str, list[CallSite]]:
        """Calls by the dotted name of what is called; those of anything else under ""."""
        found: dict[str, list[CallSite]] = defaultdict(list)
        for site in self.call_sites:
            found[site.scope.dotted(site.node.func)].append(site)
        return found

    @cached_property
    def methods(self) -> dict[str, list[CallSite]]:
        """Calls ``anything.name(...)`` by the name, save functions of modules imported by ``import``."""
        found: dict[str, list[CallSite]] = defaultdict(list)
        for site in self.call_sites:
            function = site.node.func
            if isinstance(function, ast.Attribute) and not self._is_module(function.value, site.scope):
                found[function.attr].append(site)
        return found

    @cached_property
    def attributes(self) -> dict[str, list[ast.Attribute]]:
        """Attributes that are read and not called, by name."""
        found: dict[str, list[ast.Attribute]] = defaultdict(list)
        for node, scope in self.chains:
            parent = self.parents.get(node)
            called = isinstance(parent, ast.Call) and parent.func is node
            if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Load):
                continue
            if not called and not scope.dotted(node):
                found[node.attr].append(node)
        return found

    def ancestors(self, node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
        """Yield (ancestor, the child of it that leads to ``node``), from the inside out."""
        while (parent := self.parents.get(node)) is not None:
            yield parent, node
            node = parent

    def statement(self, node: ast.AST) -> ast.stmt | None:
        """Return the innermost statement that holds ``node``."""
        while not isinstance(node, ast.stmt):
            parent = self.parents.get(node)
            if parent is None:
                return None
            node = parent
        return node

    def _is_module(self, node: ast.expr, scope: Scope) -> bool:
        if not isinstance(node, ast.Name) or (found := scope.find(node.id)) is None:
            return False
        return any(binding.is_module for binding in found[1])
