"""Names that are used: ``torch.some.name``, under whatever alias."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from portable.lint.check.match import DOTTED, Match
from portable.lint.module import Module
from portable.lint.vocabulary import Patterns


@dataclass(frozen=True, kw_only=True)
class ReferenceCheck:
    """Find uses of dotted ``names``, save those of ``spare``.

    ``when``: "called" for calls only, "tested" where the value decides something (an ``if``, a comparison).
    """

    names: Patterns = field(metadata=DOTTED)
    spare: Patterns | None = field(default=None, metadata=DOTTED)
    when: str = ""
    fix: str = ""

    def find(self, module: Module) -> Iterator[Match]:
        """Yield the outermost attribute, or the name."""
        for name, nodes in module.references.items():
            weight = self.names.weight(name)
            if weight and not (self.spare and self.spare.weight(name)):
                yield from (Match(node, name, weight) for node in nodes if self._applies(module, node))

    def _applies(self, module: Module, node: ast.expr) -> bool:
        if self.when == "called":
            parent = module.parents.get(node)
            return isinstance(parent, ast.Call) and parent.func is node
        return self.when != "tested" or _decides(module, node)


def _decides(module: Module, node: ast.expr) -> bool:
    for parent, child in module.ancestors(node):
        match parent:
            case ast.Compare() | ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
                return True
            case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test) | ast.Assert(test=test):
                return test is child
            case ast.comprehension(ifs=ifs) if child in ifs:
                return True
            case ast.stmt():
                return False
            case _:
                continue
    return False
