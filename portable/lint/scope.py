"""Names and what they are bound to, scope by scope, without regard to the order of statements.

A name has a meaning only if all its bindings agree: a linter that guesses is soon switched off.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

MAX_DEPTH = 8  # aliases of aliases; also ends circles such as a = b; b = a


@dataclass(frozen=True, slots=True)
class Binding:
    """One binding: of an import (``target``), of a plain assignment (``value``), or of something opaque."""

    node: ast.AST
    target: str = ""
    value: ast.expr | None = None
    is_module: bool = False  # import a.b, which can only be a module

    @property
    def is_none(self) -> bool:
        """Whether this is ``name = None``, as after a failed import."""
        return isinstance(self.value, ast.Constant) and self.value.value is None


class Scope:
    """A module, class, function or comprehension."""

    def __init__(self, node: ast.AST, parent: Scope | None = None) -> None:
        self.node = node
        self.parent = parent
        self.bindings: dict[str, list[Binding]] = {}
        self._elsewhere: dict[str, Scope] = {}  # names declared global or nonlocal
        self._resolved: dict[str, str] = {}

    def child(self, node: ast.AST) -> Scope:
        """Return the scope of ``node`` inside this one. Functions do not see the names of their class."""
        return Scope(node, self._visible())

    def bind(self, name: str, binding: Binding) -> None:
        """Note one binding of ``name``."""
        home = self._elsewhere.get(name, self)
        home.bindings.setdefault(name, []).append(binding)

    def declare(self, name: str, *, is_global: bool) -> None:
        """Note ``global name`` or ``nonlocal name``."""
        home = self.parent
        while home is not None and home.parent is not None and (is_global or name not in home.bindings):
            home = home.parent
        if home is not None:
            self._elsewhere[name] = home

    def find(self, name: str) -> tuple[Scope, list[Binding]] | None:
        """Return the innermost scope that binds ``name``, and the bindings; None for builtins."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.bindings:
                return scope, scope.bindings[name]
            scope = scope.parent
        return None

    def resolve(self, name: str, depth: int = 0) -> str:
        """Return the dotted name that ``name`` stands for, e.g. "torch.nn"; "" if it is not certain."""
        found = self.find(name)
        if found is None or depth > MAX_DEPTH:
            return ""
        scope, bindings = found
        if name not in scope._resolved:
            known = [binding for binding in bindings if not binding.is_none]
            names = {binding.target or scope._name_of_value(binding, depth) for binding in known}
            scope._resolved[name] = names.pop() if len(names) == 1 else ""
        return scope._resolved[name]

    def dotted(self, node: ast.expr, depth: int = 0) -> str:
        """Return what an expression such as ``t.nn`` names, e.g. "torch.nn"; "" if it is not certain.

        ``getattr(torch, "nn")`` is ``torch.nn``.
        """
        attributes: list[str] = []
        while True:
            if isinstance(node, ast.Attribute):
                attributes.append(node.attr)
                node = node.value
                continue
            got = self._got(node)
            if got is None:
                break
            attributes.append(got[1])
            node = got[0]
        if not isinstance(node, ast.Name):
            return ""
        base = self.resolve(node.id, depth + 1)
        return ".".join([base, *reversed(attributes)]) if base else ""

    def is_builtin(self, node: ast.expr, name: str) -> bool:
        """Return whether ``node`` is the builtin ``name``, not rebound here."""
        return isinstance(node, ast.Name) and node.id == name and self.find(name) is None

    def values(self, name: str) -> Iterator[tuple[Scope, ast.expr]]:
        """Yield the expressions that ``name`` may stand for, each with its scope."""
        found = self.find(name)
        if found is not None:
            yield from ((found[0], binding.value) for binding in found[1] if binding.value is not None)

    def _got(self, node: ast.expr) -> tuple[ast.expr, str] | None:
        match node:
            case ast.Call(func=ast.Name(id="getattr"), args=[base, ast.Constant(value=str(name))]):
                return (base, name) if self.find("getattr") is None else None
            case _:
                return None

    def _name_of_value(self, binding: Binding, depth: int) -> str:
        return self.dotted(binding.value, depth + 1) if binding.value is not None else ""

    def _visible(self) -> Scope:
        scope = self
        while isinstance(scope.node, ast.ClassDef) and scope.parent is not None:
            scope = scope.parent
        return scope
