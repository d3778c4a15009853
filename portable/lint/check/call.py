"""Calls of functions and methods, by what they are given or lack."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from portable.lint.check.match import DOTTED, Match, spell
from portable.lint.module import CallSite, Module
from portable.lint.value import last_name
from portable.lint.vocabulary import Patterns


@dataclass(frozen=True, kw_only=True)
class CallCheck:
    """Find calls of ``functions`` that lack an argument, or are given a certain constant.

    ``lacks``: keywords none of which is given; ``position``: how many positional arguments also provide it.
    ``gives``: keywords and the constants that must be given, to any function if there are no ``functions``.
    ``decorator``: a bare ``@function`` counts too.
    """

    functions: Patterns | None = field(default=None, metadata=DOTTED)
    lacks: tuple[str, ...] = ()
    position: int = 99
    gives: Mapping[str, object] = field(default_factory=dict[str, object])
    decorator: bool = False
    fix: str = ""

    def find(self, module: Module) -> Iterator[Match]:
        """Yield the calls, or the keyword that is wrong."""
        for name, sites in module.calls.items():
            weight = self.functions.weight(name) if self.functions else 1
            if weight:
                yield from (match for site in sites for match in self._of(site.node, name, weight))
        if self.decorator and self.functions:
            for name, nodes in module.references.items():
                if weight := self.functions.weight(name):
                    yield from (Match(node, f"@{name}", weight) for node in nodes if _decorates(module, node))

    def _of(self, call: ast.Call, name: str, weight: int) -> Iterator[Match]:
        given = {keyword.arg: keyword for keyword in call.keywords}
        unknown = None in given or any(isinstance(arg, ast.Starred) for arg in call.args)
        if any(word in given for word in self.lacks) or (self.lacks and unknown):
            return
        if self.lacks and len(call.args) > self.position:
            return
        wrong = [
            given[word]
            for word, value in self.gives.items()
            if word in given and _is_constant(given[word].value, value)
        ]
        if len(wrong) == len(self.gives):
            place = wrong[0] if wrong else call
            yield Match(place, spell(place) if wrong else f"{name}(...)", weight)


@dataclass(frozen=True, kw_only=True)
class MethodCheck:
    """Find ``anything.method(...)`` with at most ``max_arguments`` and no keywords but ``keywords``.

    Spared are methods that the code defines itself, and what they ask of ``super()``.
    """

    methods: Patterns
    keywords: tuple[str, ...] = ()
    max_arguments: int = 99
    fix: str = ""

    def find(self, module: Module) -> Iterator[Match]:
        """Yield the calls."""
        for name, sites in module.methods.items():
            if weight := self.methods.weight(name):
                for site in sites:
                    if self._fits(site.node) and not _is_own(module, site, name):
                        yield Match(site.node, f".{name}(...)" if site.node.args else f".{name}()", weight)

    def _fits(self, call: ast.Call) -> bool:
        few = len(call.args) <= self.max_arguments
        return few and all(keyword.arg in self.keywords for keyword in call.keywords)


def _is_own(module: Module, site: CallSite, name: str) -> bool:
    """Whether the call is of ``super()``, or of ``self`` in a class that defines ``name``, ."""
    receiver = site.node.func.value if isinstance(site.node.func, ast.Attribute) else site.node
    if isinstance(receiver, ast.Call) and last_name(receiver) == "super":
        return True
    if not isinstance(receiver, ast.Name) or receiver.id not in {"self", "cls"}:
        return False
    classes = [parent for parent, _ in module.ancestors(site.node) if isinstance(parent, ast.ClassDef)]
    return any(_defines(node, name) for node in classes)


def _defines(node: ast.ClassDef, name: str) -> bool:
    return any(
        isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and item.name == name for item in node.body
    )


def _decorates(module: Module, node: ast.expr) -> bool:
    parent = module.parents.get(node)
    decorated = isinstance(parent, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    return decorated and node in parent.decorator_list


def _is_constant(node: ast.expr, value: object) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is type(value) and node.value == value


def argument(call: ast.Call, position: int) -> ast.expr | None:
    """Return the positional argument at ``position``, if the syntax shows it."""
    before = call.args[: position + 1]
    if len(before) <= position or any(isinstance(arg, ast.Starred) for arg in before):
        return None
    return before[position]
