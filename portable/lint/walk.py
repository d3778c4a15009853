"""Walk a syntax tree once and index it. Iterative, so that deeply nested code is no danger."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable

from portable.lint.module import CallSite, Import, Key, Module, Site
from portable.lint.scope import Binding, Scope
from portable.lint.value import fallback, is_text, last_name, option

# Annotations are left out: they name types, and run nothing. The others hold no nodes that matter.
_UNSEEN = {
    "annotation",
    "returns",
    "ctx",
    "op",
    "ops",
    "type_params",
    "type_comment",
    "kind",
    "conversion",
} | {
    "id",
    "attr",
    "arg",
    "is_async",
    "simple",
    "kwd_attrs",
}
_FIELDS: dict[type[ast.AST], tuple[str, ...]] = {
    kind: tuple(field for field in kind._fields if field not in _UNSEEN)
    for kind in vars(ast).values()
    if isinstance(kind, type) and issubclass(kind, ast.AST)
}
_READS = {"get", "pop", "getenv"}
_WRITES = {"setdefault", "putenv", "unsetenv", "setenv", "delenv"}
Functions = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def index(tree: ast.Module, path: str, package: str = "") -> Module:
    """Return ``tree`` with its names, calls, given values, imports, comparisons and keys."""
    module = Module(tree, path, package)
    _Walk(module).run()
    return module


class _Walk:
    """The stack holds what is still to be seen: nodes, their scopes, and whether only bindings count."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.stack: list[tuple[ast.AST, Scope, bool]] = []

    def run(self) -> None:
        """Walk everything."""
        self._push(self.module.tree, self.module.tree.body, self.module.scope, False)
        while self.stack:
            node, scope, quiet = self.stack.pop()
            _HANDLERS.get(type(node), _Walk.descend)(self, node, scope, quiet)

    def _push(self, parent: ast.AST, nodes: Iterable[ast.AST | None], scope: Scope, quiet: bool) -> None:
        parents, stack = self.module.parents, self.stack
        for node in reversed([node for node in nodes if node is not None]):
            parents[node] = parent
            if type(node) is not ast.Constant:  # a leaf, and the most frequent one
                stack.append((node, scope, quiet))

    def descend(self, node: ast.AST, scope: Scope, quiet: bool) -> None:
        children: list[ast.AST | None] = []
        for field in _FIELDS[type(node)]:
            value = getattr(node, field, None)
            if isinstance(value, list):
                children += value
            elif isinstance(value, ast.AST):
                children.append(value)
        self._push(node, children, scope, quiet)

    def see_name(self, node: ast.Name, scope: Scope, quiet: bool) -> None:
        if not isinstance(node.ctx, ast.Load):
            scope.bind(node.id, Binding(node))
        elif not quiet:
            self.module.chains.append(Site(node, scope))

    def see_attribute(self, node: ast.Attribute, scope: Scope, quiet: bool) -> None:
        if not quiet:  # assigned ones too: torch.some.switch = True uses the name as well
            self.module.chains.append(Site(node, scope))
        outer: ast.expr = node
        while isinstance(
            outer, ast.Attribute
        ):  # the inner parts of the chain are not references of their own
            self.module.parents[outer.value] = outer
            outer = outer.value
        if not isinstance(outer, ast.Name):
            self.stack.append((outer, scope, quiet))

    def see_call(self, node: ast.Call, scope: Scope, quiet: bool) -> None:
        if not quiet:
            self.module.call_sites.append(CallSite(node, scope))
            for keyword in node.keywords:
                if keyword.arg is not None:
                    self._give(keyword.arg, keyword.value, scope)
            for given in (fallback(node), option(node)):
                if given is not None:
                    self._give(*given, scope)
            self._keys_of_call(node, scope)
        self.descend(node, scope, quiet)

    def _keys_of_call(self, node: ast.Call, scope: Scope) -> None:
        name = last_name(node.func)
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        if name in _READS or name in _WRITES:
            holder = node.func if name.endswith("env") else owner
            keys = [arg for arg in node.args[:1] if is_text(arg) or isinstance(arg, ast.Name)]
            self.module.keys += [Key(key, scope, holder, name in _WRITES) for key in keys]
        elif name in {"update", "dict"}:
            self.module.keys += [Key(key, scope, owner, True) for key in node.keywords if key.arg is not None]

    def see_assign(self, node: ast.Assign, scope: Scope, quiet: bool) -> None:
        for target in node.targets:
            self._target(node, target, node.value, scope, quiet)
        self._push(node, [node.value], scope, quiet)

    def see_annotated(self, node: ast.AnnAssign, scope: Scope, quiet: bool) -> None:
        if node.value is not None:
            self._target(node, node.target, node.value, scope, quiet)
        self._push(node, [node.value], scope, quiet)

    def see_named(self, node: ast.NamedExpr, scope: Scope, quiet: bool) -> None:
        self._target(node, node.target, node.value, scope, quiet)
        self._push(node, [node.value], scope, quiet)

    def _target(self, parent: ast.AST, target: ast.expr, value: ast.expr, scope: Scope, quiet: bool) -> None:
        if isinstance(target, ast.Name):
            scope.bind(target.id, Binding(parent, value=value))
        if not quiet and isinstance(target, ast.Name | ast.Attribute):
            self._give(last_name(target), value, scope)
        if not quiet and isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
            self._give(str(target.slice.value), value, scope)
        if isinstance(target, ast.Name):
            self.module.parents[target] = parent
        else:
            self._push(parent, [target], scope, quiet)

    def _give(self, name: str, value: ast.expr, scope: Scope) -> None:
        self.module.values[name.lower()].append(Site(value, scope))

    def see_import(self, node: ast.Import, scope: Scope, quiet: bool) -> None:
        for alias in node.names:
            bound = alias.asname or alias.name.split(".")[0]
            target = alias.name if alias.asname else bound
            scope.bind(bound, Binding(node, target=target, is_module=True))
            if not quiet:
                self.module.imports.append(Import(node, alias.name, bound))

    def see_import_from(self, node: ast.ImportFrom, scope: Scope, quiet: bool) -> None:
        origin = "." * node.level + (node.module or "")
        for alias in node.names:
            bound = alias.asname or alias.name
            name = f"{origin}.{alias.name}"
            scope.bind(bound, Binding(node, target=name))
            if not quiet:
                self.module.imports.append(Import(node, name, bound))

    def see_function(self, node: Functions, scope: Scope, quiet: bool) -> None:
        inner = scope.child(node)
        spec = node.args
        positional = [*spec.posonlyargs, *spec.args]
        everyone = [*positional, *spec.kwonlyargs, *(extra for extra in (spec.vararg, spec.kwarg) if extra)]
        for argument in everyone:
            inner.bind(argument.arg, Binding(argument))
        defaults = [*zip(reversed(positional), reversed(spec.defaults), strict=False)]
        defaults += [
            (arg, value) for arg, value in zip(spec.kwonlyargs, spec.kw_defaults, strict=True) if value
        ]
        if not quiet:
            for argument, default in defaults:
                self._give(argument.arg, default, scope)
        self.module.parents[spec] = node
        self._push(spec, [default for _, default in defaults], scope, quiet)
        if isinstance(node, ast.Lambda):
            self._push(node, [node.body], inner, quiet)
            return
        scope.bind(node.name, Binding(node))
        self._push(node, node.decorator_list, scope, quiet)
        self._push(node, node.body, inner, quiet)

    def see_class(self, node: ast.ClassDef, scope: Scope, quiet: bool) -> None:
        scope.bind(node.name, Binding(node))
        self._push(node, [*node.decorator_list, *node.bases, *node.keywords], scope, quiet)
        self._push(node, node.body, scope.child(node), quiet)

    def see_comprehension(self, node: ast.AST, scope: Scope, quiet: bool) -> None:
        self.descend(node, scope.child(node), quiet)

    def see_global(self, node: ast.Global | ast.Nonlocal, scope: Scope, quiet: bool) -> None:
        for name in node.names:
            scope.declare(name, is_global=isinstance(node, ast.Global))

    def see_if(self, node: ast.If, scope: Scope, quiet: bool) -> None:
        only_types = last_name(node.test) == "TYPE_CHECKING"
        self._push(node, node.orelse, scope, quiet)
        self._push(node, node.body, scope, quiet or only_types)
        self._push(node, [node.test], scope, quiet)

    def see_dict(self, node: ast.Dict, scope: Scope, quiet: bool) -> None:
        if not quiet:
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    self._give(key.value, value, scope)
                    self.module.keys.append(Key(key, scope, None, True))
        self.descend(node, scope, quiet)

    def see_subscript(self, node: ast.Subscript, scope: Scope, quiet: bool) -> None:
        if not quiet and (is_text(node.slice) or isinstance(node.slice, ast.Name)):
            writes = not isinstance(node.ctx, ast.Load)
            self.module.keys.append(Key(node.slice, scope, node.value, writes))
        self.descend(node, scope, quiet)

    def see_compare(self, node: ast.Compare, scope: Scope, quiet: bool) -> None:
        if not quiet:
            self.module.comparisons.append((node, scope))
            if isinstance(node.ops[0], ast.In | ast.NotIn) and is_text(node.left):
                self.module.keys.append(Key(node.left, scope, node.comparators[0]))
        self.descend(node, scope, quiet)

    def see_match(self, node: ast.Match, scope: Scope, quiet: bool) -> None:
        if not quiet:
            self.module.comparisons.append((node, scope))
        self.descend(node, scope, quiet)

    def see_handler(self, node: ast.ExceptHandler, scope: Scope, quiet: bool) -> None:
        if node.name:
            scope.bind(node.name, Binding(node))
        self.descend(node, scope, quiet)

    def see_capture(
        self, node: ast.MatchAs | ast.MatchStar | ast.MatchMapping, scope: Scope, quiet: bool
    ) -> None:
        name = node.rest if isinstance(node, ast.MatchMapping) else node.name
        if name:
            scope.bind(name, Binding(node))
        self.descend(node, scope, quiet)


# A table of functions: bound methods in it would make every walk a cycle, which only the collector frees.
_HANDLERS: dict[type[ast.AST], Callable[..., None]] = {
    ast.Name: _Walk.see_name,
    ast.Attribute: _Walk.see_attribute,
    ast.Call: _Walk.see_call,
    ast.Assign: _Walk.see_assign,
    ast.AnnAssign: _Walk.see_annotated,
    ast.NamedExpr: _Walk.see_named,
    ast.Import: _Walk.see_import,
    ast.ImportFrom: _Walk.see_import_from,
    ast.FunctionDef: _Walk.see_function,
    ast.AsyncFunctionDef: _Walk.see_function,
    ast.Lambda: _Walk.see_function,
    ast.ClassDef: _Walk.see_class,
    ast.Global: _Walk.see_global,
    ast.Nonlocal: _Walk.see_global,
    ast.If: _Walk.see_if,
    ast.Dict: _Walk.see_dict,
    ast.Subscript: _Walk.see_subscript,
    ast.Compare: _Walk.see_compare,
    ast.Match: _Walk.see_match,
    ast.ExceptHandler: _Walk.see_handler,
    ast.MatchAs: _Walk.see_capture,
    ast.MatchStar: _Walk.see_capture,
    ast.MatchMapping: _Walk.see_capture,
    ast.ListComp: _Walk.see_comprehension,
    ast.SetComp: _Walk.see_comprehension,
    ast.DictComp: _Walk.see_comprehension,
    ast.GeneratorExp: _Walk.see_comprehension,
}
