"""Questions that ask who somebody is, where what they can do is meant."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from portable.lint.check.match import Match, spell
from portable.lint.module import Module
from portable.lint.scope import Scope
from portable.lint.value import last_name, literals
from portable.lint.vocabulary import Patterns


@dataclass(frozen=True, kw_only=True)
class ComparisonCheck:
    """Find texts that fit ``values`` compared with something whose last name fits ``names``.

    ``x.kind == "a"``, ``x.kind in ("a", "b")``, ``"a" in str(kind)``, ``kind.startswith("a")``,
    ``match kind:``.
    """

    values: Patterns
    names: Patterns
    fix: str = ""

    def find(self, module: Module) -> Iterator[Match]:
        """Yield comparisons, calls of ``startswith``, and the patterns of a ``match``."""
        for node, scope in module.comparisons:
            if isinstance(node, ast.Match):
                yield from self._cases(node)
            elif self._compares(node, scope):
                yield Match(node, spell(node), 1)
        for site in module.methods.get("startswith", []):
            function = site.node.func
            asked = isinstance(function, ast.Attribute) and self._asked(function.value)
            if asked and any(self._texts(arg, site.scope) for arg in site.node.args):
                yield Match(site.node, spell(site.node), 1)

    def _compares(self, node: ast.Compare, scope: Scope) -> bool:
        sides = [node.left, *node.comparators]
        answers = [side for side in sides if not self._asked(side)]
        return len(answers) < len(sides) and any(self._texts(side, scope) for side in answers)

    def _cases(self, node: ast.Match) -> Iterator[Match]:
        if self._asked(node.subject):
            for case in node.cases:
                for part in ast.walk(case.pattern):
                    if isinstance(part, ast.MatchValue) and self._texts(part.value, None):
                        yield Match(part, spell(part), 1)

    def _asked(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Call) and last_name(node) in {"str", "lower"}:  # str(kind), kind.lower()
            inner = node.func.value if isinstance(node.func, ast.Attribute) else (node.args or [node])[0]
            return bool(self.names.weight(last_name(inner).lower()))
        return bool(self.names.weight(last_name(node).lower()))

    def _texts(self, node: ast.expr, scope: Scope | None) -> bool:
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            return any(self._texts(item, scope) for item in node.elts)
        if isinstance(node, ast.Constant):
            return isinstance(node.value, str) and bool(self.values.weight(node.value))
        if not isinstance(node, ast.Name) or scope is None:
            return False
        return any(self.values.weight(text) for _, text in literals(node, scope))


@dataclass(frozen=True, kw_only=True)
class AttributeCheck:
    """Find ``anything.attribute``, read and not called."""

    attributes: Patterns
    fix: str = ""

    def find(self, module: Module) -> Iterator[Match]:
        """Yield the attributes."""
        for name, nodes in module.attributes.items():
            if weight := self.attributes.weight(name):
                yield from (Match(node, spell(node), weight) for node in nodes)
