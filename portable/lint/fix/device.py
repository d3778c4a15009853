"""What the name ``device`` holds at a place, and whether it is for certain the device that was meant."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from portable.lint.module import Module
from portable.lint.scope import Binding, Scope
from portable.lint.value import literals

NAME = "device"


@dataclass(frozen=True, slots=True)
class DeviceName:
    """``device`` at a place. ``kind``: what it is on the hardware the code was written for; "" if unknown."""

    kind: str
    is_torch_device: bool  # has .type


def device_at(module: Module, node: ast.AST) -> DeviceName | None:
    """Return what ``device`` is where ``node`` stands; None if it is not in scope, or not yet bound.

    ``device = torch.device("x" if torch.x.is_available() else "cpu")`` is x there: without x, code that asks
    for x by name would have failed.
    """
    found = _scope_of(module, node).find(NAME)
    if found is None:
        return None
    scope, bindings = found
    if len(bindings) != 1 or not _is_bound_before(module, scope, bindings[0], node):
        return None
    value = bindings[0].value
    if value is None:
        return DeviceName("", False) if isinstance(bindings[0].node, ast.arg) else None
    is_device = isinstance(value, ast.Call) and scope.dotted(value.func) == "torch.device"
    if isinstance(value, ast.Call) and is_device and len(value.args) == 1 and not value.keywords:
        value = value.args[0]
    kinds = [text for _, text in literals(value, scope)]
    certain = _is_choice(value, scope)
    return DeviceName(kinds[0] if kinds and certain else "", is_device)


def _is_choice(value: ast.expr, scope: Scope) -> bool:
    """Whether ``value`` is a text, or a text where it is available and "cpu" elsewhere."""
    if isinstance(value, ast.Constant):
        return True
    match value:
        case ast.IfExp(
            body=ast.Constant(value=str(kind)), orelse=ast.Constant(value="cpu"), test=ast.Call(func=test)
        ):
            return scope.dotted(test) == f"torch.{kind.split(':')[0]}.is_available"
        case _:
            return False


def _is_bound_before(module: Module, scope: Scope, binding: Binding, node: ast.AST) -> bool:
    """Whether the binding has happened for certain when ``node`` runs."""
    if isinstance(binding.node, ast.arg):
        return True
    body = getattr(scope.node, "body", [])
    inside = any(parent is binding.node for parent, _ in module.ancestors(node))
    earlier = getattr(binding.node, "lineno", 0) < getattr(node, "lineno", 0)
    return isinstance(body, list) and binding.node in body and earlier and not inside


def _scope_of(module: Module, node: ast.AST) -> Scope:
    for site in (*module.call_sites, *module.chains):
        if site.node is node:
            return site.scope
    parent = module.parents.get(node)
    return _scope_of(module, parent) if parent is not None else module.scope


def scope_of(module: Module, node: ast.AST) -> Scope:
    """Return the scope in which ``node`` stands."""
    return _scope_of(module, node)
