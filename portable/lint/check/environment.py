"""Environment variables of one vendor, and variables that are set too late."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from portable.lint.check.match import Match
from portable.lint.module import Key, Module
from portable.lint.value import last_name, literals
from portable.lint.vocabulary import Patterns

_FUNCTIONS = {"getenv", "putenv", "unsetenv", "setenv", "delenv"}


@dataclass(frozen=True, kw_only=True)
class EnvironmentCheck:
    """Find ``variables`` used as keys: of ``os.environ``, of a dict for a child process, in ``getenv``.

    ``after``: a package; only variables of this process that are set after the file has imported it.
    """

    variables: Patterns
    after: str = ""
    fix: str = ""

    def find(self, module: Module) -> Iterator[Match]:
        """Yield the keys."""
        for key in module.keys:
            for text in _texts(key):
                weight = self.variables.weight(text)
                if weight and (not self.after or self._late(module, key)):
                    yield Match(key.node, text, weight)
                    break

    def _late(self, module: Module, key: Key) -> bool:
        lines = [
            item.node.lineno
            for item in module.imports
            if item.module.split(".")[0] == self.after and item.node in module.tree.body
        ]
        line = getattr(key.node, "lineno", 0)
        return key.writes and _is_environment(key) and bool(lines) and min(lines) < line


def _is_environment(key: Key) -> bool:
    owner = key.owner
    return owner is not None and (key.scope.dotted(owner) == "os.environ" or last_name(owner) == "putenv")


def _texts(key: Key) -> Iterator[str]:
    match key.node:
        case ast.keyword(arg=str(name)):
            yield name
        case ast.Constant(value=str(text)):
            yield text
        case ast.Name() if key.owner is not None and last_name(key.owner) in {"environ", *_FUNCTIONS}:
            yield from (text for _, text in literals(key.node, key.scope))
        case _:
            pass
