"""Number formats that not every accelerator has."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from portable.lint.check.match import DOTTED, Match, spell
from portable.lint.module import CallSite, Module
from portable.lint.scope import Scope
from portable.lint.value import is_text, last_name, literals
from portable.lint.vocabulary import Patterns


@dataclass(frozen=True, kw_only=True)
class DtypeCheck:
    """Find tensors that are made in, or turned into, one of ``dtypes``.

    As ``dtype=`` of any call, or as an argument of ``methods``, save after ``.cpu()``. ``on_device``: only
    where the call, or for ``short`` methods such as ``.double()`` the next one in the chain, also names a
    device that is not the processor; ``moves``: methods that move.
    """

    dtypes: Patterns = field(metadata=DOTTED)
    methods: tuple[str, ...] = ("to", "type", "view")
    short: tuple[str, ...] = ()
    moves: Patterns | None = None
    on_device: bool = False
    fix: str = ""

    def find(self, module: Module) -> Iterator[Match]:
        """Yield the dtype, or the converting call."""
        for site in module.call_sites:
            for node, name in self._dtypes(site):
                if not self.on_device or any(_is_device(arg, site.scope) for arg in _others(site.node, node)):
                    yield Match(node, name, self.dtypes.weight(name))
        for name in self.short:
            for site in module.methods.get(name, []):
                if not site.node.args and not site.node.keywords and self._moved(module, site):
                    yield Match(site.node, f".{name}() of a tensor on a device", len(name))

    def _dtypes(self, site: CallSite) -> Iterator[tuple[ast.expr, str]]:
        call, scope = site
        given = [keyword.value for keyword in call.keywords if keyword.arg == "dtype"]
        if isinstance(call.func, ast.Attribute) and call.func.attr in self.methods:
            if isinstance(call.func.value, ast.Call) and last_name(call.func.value) == "cpu":
                return
            given += call.args
        for node in given:
            name = scope.dotted(node) if isinstance(node, ast.Attribute | ast.Name) else ""
            if name and self.dtypes.weight(name):
                yield node, name

    def _moved(self, module: Module, site: CallSite) -> bool:
        """Whether the call before or after in the chain moves the tensor to a device."""
        function = site.node.func
        before = function.value if isinstance(function, ast.Attribute) else None
        above = module.parents.get(site.node)
        after = module.parents.get(above) if isinstance(above, ast.Attribute) else None
        return any(isinstance(call, ast.Call) and self._moves(call, site.scope) for call in (before, after))

    def _moves(self, call: ast.Call, scope: Scope) -> bool:
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        if self.moves and self.moves.weight(name):
            return True
        return name == "to" and any(_is_device(arg, scope) for arg in _others(call, None))


def _others(call: ast.Call, dtype: ast.expr | None) -> Iterator[ast.expr]:
    """Yield the arguments that may be the device, without ``dtype``."""
    is_move = isinstance(call.func, ast.Attribute) and call.func.attr == "to"
    if is_move and call.args and call.args[0] is not dtype:
        yield call.args[0]
    yield from (keyword.value for keyword in call.keywords if keyword.arg == "device")


def _is_device(node: ast.expr, scope: Scope) -> bool:
    """Whether ``node`` is a device other than the processor: named so, or a literal."""
    if isinstance(node, ast.Constant) and not is_text(node):
        return False
    found = [text for _, text in literals(node, scope)]
    if found:
        return not all(text.split(":")[0] in {"cpu", "meta"} for text in found)
    if isinstance(node, ast.Call):
        inner = [arg for arg in node.args[:1] if is_text(arg)]
        return not inner or _is_device(inner[0], scope)
    return "device" in spell(node)
