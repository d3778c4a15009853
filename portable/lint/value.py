"""The texts that an expression may evaluate to, as far as the syntax shows it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from portable.lint.scope import MAX_DEPTH, Scope

Literal = ast.Constant | ast.JoinedStr


def literals(node: ast.expr, scope: Scope, depth: int = 0) -> Iterator[tuple[Literal, str]]:
    """Yield each literal that ``node`` may be or begin with, and its text: "x:" for ``f"x:{i}"``."""
    if depth > MAX_DEPTH:
        return
    match node:
        case ast.Constant(value=str(text)):
            yield node, text
        case ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]):
            yield node, text
        case ast.Name(id=name):
            for where, value in scope.values(name):
                yield from literals(value, where, depth + 1)
        case _:
            for part in _alternatives(node):
                yield from literals(part, scope, depth + 1)


def _alternatives(node: ast.expr) -> Iterator[ast.expr]:
    """Yield the expressions of which ``node`` is one, or with which it begins."""
    match node:
        case ast.IfExp(body=body, orelse=orelse):
            yield from (body, orelse)
        case ast.BoolOp(op=ast.Or(), values=values):
            yield from values
        case ast.BinOp(op=ast.Add() | ast.Mod()):
            yield _leftmost(node)
        case ast.NamedExpr(value=value):
            yield value
        case ast.Dict(values=values):
            yield from values
        case ast.Call(func=ast.Attribute(value=value, attr="format" | "lower" | "strip")):
            yield value
        case ast.Call(func=ast.Attribute(attr="field") | ast.Name(id="field"), keywords=keywords):
            yield from (keyword.value for keyword in keywords if keyword.arg == "default")
        case ast.Call() if (got := fallback(node)) is not None:
            yield got[1]
        case _:
            pass


def _leftmost(node: ast.expr) -> ast.expr:
    while isinstance(node, ast.BinOp):
        node = node.left
    return node


def fallback(call: ast.Call) -> tuple[str, ast.expr] | None:
    """Return key and fallback of ``x.get("key", fallback)`` and its like, ``getattr`` among them."""
    match call:
        case ast.Call(
            func=ast.Attribute(attr="get" | "pop" | "setdefault" | "getenv"),
            args=[ast.Constant(value=str(key)), value],
        ):
            return key, value
        case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=str(key)), value]):
            return key, value
        case ast.Call(func=ast.Name(id="getenv"), args=[ast.Constant(value=str(key)), value]):
            return key, value
        case _:
            return None


def option(call: ast.Call) -> tuple[str, ast.expr] | None:
    """Return name and default of ``add_argument("--some-name", default=...)``."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else ""
    if name != "add_argument":
        return None
    flags = [
        flag.value for flag in call.args if isinstance(flag, ast.Constant) and isinstance(flag.value, str)
    ]
    defaults = [keyword.value for keyword in call.keywords if keyword.arg == "default"]
    if not flags or not defaults:
        return None
    return max(flags, key=len).lstrip("-").replace("-", "_"), defaults[0]


def is_text(node: ast.expr) -> bool:
    """Return whether ``node`` is a literal string."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def last_name(node: ast.AST) -> str:
    """Return the last identifier of a name, an attribute, or a call of one: "kind" for ``a.kind()``."""
    if isinstance(node, ast.Call):
        node = node.func
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""
