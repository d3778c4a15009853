"""Imports of packages that not every machine has."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from portable.lint.check.match import DOTTED, Match, spell
from portable.lint.module import Import, Module
from portable.lint.value import last_name
from portable.lint.vocabulary import Patterns

_CATCHES = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException", "OSError", "RuntimeError"}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


@dataclass(frozen=True, kw_only=True)
class ImportCheck:
    """Find imports of ``packages`` that nothing guards: no ``if``, no ``try`` that expects them to fail.

    ``lazy``: imports inside functions count too; ``guarded``: even guarded ones. A package may import itself.
    A file whose functions are decorated by the package is written in it: the fault is with who imports it.
    """

    packages: Patterns = field(metadata=DOTTED)
    lazy: bool = False
    guarded: bool = False
    fix: str = ""

    def find(self, module: Module) -> Iterator[Match]:
        """Yield the import statements."""
        for item in module.imports:
            weight = self.packages.weight(item.module)
            own = item.module.split(".")[0] == module.package
            if weight and not own and self._unguarded(module, item) and not _decorates(module, item):
                yield Match(item.node, spell(item.node), weight)

    def _unguarded(self, module: Module, item: Import) -> bool:
        for parent, child in module.ancestors(item.node):
            if isinstance(parent, _FUNCTIONS) and not self.lazy:
                return False
            if self.guarded:
                continue
            if isinstance(parent, ast.If | ast.ExceptHandler) or _expects_failure(parent, child):
                return False
        return True


def _expects_failure(parent: ast.AST, child: ast.AST) -> bool:
    if isinstance(parent, ast.Try):
        caught = [handler.type for handler in parent.handlers]
        return child in parent.body and any(map(_catches, caught))
    if isinstance(parent, ast.With | ast.AsyncWith):
        calls = [item.context_expr for item in parent.items]
        return any(last_name(call) == "suppress" for call in calls)
    return False


def _catches(caught: ast.expr | None) -> bool:
    if isinstance(caught, ast.Tuple):
        return any(map(_catches, caught.elts))
    return caught is None or last_name(caught) in _CATCHES


def _decorates(module: Module, item: Import) -> bool:
    """Whether functions of the file are decorated by what is imported."""
    package = item.module.split(".")[0]
    uses = [
        node for name, nodes in module.references.items() if name.split(".")[0] == package for node in nodes
    ]
    return any(_is_in_decorator(module, node) for node in uses)


def _is_in_decorator(module: Module, node: ast.expr) -> bool:
    for parent, child in module.ancestors(node):
        if isinstance(parent, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            return child in parent.decorator_list
        if isinstance(parent, ast.stmt):
            return False
    return False
