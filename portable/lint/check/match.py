"""What every kind of check gives back."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from portable.lint.module import Module

DOTTED = {"dotted": True}  # marks fields that hold dotted names


@dataclass(frozen=True, slots=True)
class Match:
    """A place that breaks a rule: ``what`` says in code what stands there."""

    node: ast.AST
    what: str
    weight: int


class Check(Protocol):
    """One kind of check with the words it looks for."""

    fix: str  # name of what mends it, in portable.lint.fix; "" for nothing

    def find(self, module: Module) -> Iterator[Match]:
        """Yield the places that break the rule."""
        ...


def spell(node: ast.AST, limit: int = 60) -> str:
    """Return ``node`` as code on one line, cut at ``limit`` characters."""
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
