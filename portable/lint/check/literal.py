"""Literal texts in places where they choose something: a device, a communicator, an implementation."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from portable.lint.check.call import argument
from portable.lint.check.match import DOTTED, Match, spell
from portable.lint.module import Module, Site
from portable.lint.value import literals
from portable.lint.vocabulary import Patterns


@dataclass(frozen=True, kw_only=True)
class LiteralCheck:
    """Find texts that fit ``values``, given to one of ``names`` or as an argument of a function.

    ``names``: keywords, parameters with a default, variables, attributes, dict keys, command-line options.
    ``functions``: dotted names, ``methods``: names of methods; their argument number ``position`` is looked
    at, and of the functions also ``keywords``.
    A text that arrives by way of a constant is found where it is written.
    """

    values: Patterns
    names: Patterns | None = None
    functions: Patterns | None = field(default=None, metadata=DOTTED)
    keywords: Patterns | None = None
    methods: tuple[str, ...] = ()
    position: int = 0
    fix: str = ""

    def find(self, module: Module) -> Iterator[Match]:
        """Yield the first fitting literal of each expression."""
        for site, where, weight in self._sites(module):
            for node, text in literals(site.node, site.scope):
                if self.values.weight(text):
                    yield Match(node, where + spell(node), weight)
                    break

    def _sites(self, module: Module) -> Iterator[tuple[Site, str, int]]:
        if self.names:
            for name, sites in module.values.items():
                if self.names.weight(name):
                    yield from ((site, f"{name}=", 1) for site in sites)
        if self.functions:
            for name, sites in module.calls.items():
                if weight := self.functions.weight(name):
                    calls = ((site.node, site.scope) for site in sites)
                    yield from (
                        (Site(value, scope), f"{name}: ", weight)
                        for call, scope in calls
                        for value in self._given(call)
                    )
        for name in self.methods:
            for site in module.methods.get(name, []):
                if (value := argument(site.node, self.position)) is not None:
                    yield Site(value, site.scope), f".{name}: ", 1

    def _given(self, call: ast.Call) -> Iterator[ast.expr]:
        if (value := argument(call, self.position)) is not None:
            yield value
        for keyword in call.keywords:
            if keyword.arg and self.keywords and self.keywords.weight(keyword.arg):
                yield keyword.value
