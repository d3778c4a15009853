"""Docstrings out of source files, read as text: nothing is imported, so nothing can have an effect."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from pathlib import Path

from portable.core.storage import explain_os_errors
from portable.data.python_docs.page import Entry, shorten_signature

# Folders that hold no documentation of the package itself.
_SKIPPED_FOLDERS = frozenset({
    *("__pycache__", "site-packages", "test", "tests", "testing", "idlelib", "lib2to3", "turtledemo"),
    *("_vendor", "vendor", "third_party", "externals"),
})  # fmt: skip
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def find_modules(root: Path, package: str) -> dict[str, Path]:
    """Return the source files below ``root`` by module name, in order of path.

    ``package`` is the name that ``root`` is imported by, or "" for the standard library.
    """
    modules: dict[str, Path] = {}
    for file in sorted(root.rglob("*.py"), key=lambda file: file.relative_to(root).parts):
        parts = file.relative_to(root).parts
        if not _SKIPPED_FOLDERS.intersection(parts[:-1]):
            name = ".".join(
                part for part in (package, *parts[:-1], file.stem) if part not in ("", "__init__")
            )
            modules[name] = file
    return modules


def read_module(file: Path, module: str, *, include_private: bool) -> Iterator[Entry]:
    """Yield every documented class, function and method of a source file, after the module itself, in order
    of line.

    A file that this Python cannot parse yields nothing: packages ship templates and code for other versions.
    """
    with explain_os_errors(file, "read"):
        source = file.read_bytes()
    yield from parse_module(source, module, include_private=include_private)


def parse_module(source: bytes, module: str, *, include_private: bool) -> Iterator[Entry]:
    """Yield the documented things of one module's source; nothing if it does not parse."""
    if not include_private and _is_private(module):
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escapes are not our user's business
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    doc = _docstring(tree)
    if doc:
        yield Entry(module, module, "module", doc)
    yield from _read_body(tree.body, module, module, include_private=include_private)


def _read_body(
    body: list[ast.stmt], module: str, owner: str, *, include_private: bool, in_class: bool = False
) -> Iterator[Entry]:
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            # Definitions for one platform or one version stand inside these.
            yield from _read_body(
                node.body, module, owner, include_private=include_private, in_class=in_class
            )
            continue
        if not isinstance(node, Definition) or (_is_private(node.name) and not include_private):
            continue
        name = f"{owner}.{node.name}"
        doc = _docstring(node)
        is_class = isinstance(node, ast.ClassDef)
        if doc:
            kind = "class" if is_class else "method" if in_class else "function"
            yield Entry(name, module, kind, doc, signature_of(node, in_class=in_class))
        if is_class:
            yield from _read_body(node.body, module, name, include_private=include_private, in_class=True)


def _docstring(node: Definition | ast.Module) -> str:
    return (ast.get_docstring(node) or "").strip()


def signature_of(node: Definition, *, in_class: bool = False) -> str:
    """Return "(a, b=1)" without annotations; of a class that of its ``__init__``; of a method without
    ``self``.

    Empty for a class without an ``__init__`` and for a property, which is not called.
    """
    if isinstance(node, ast.ClassDef):
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                return signature_of(item, in_class=True)
        return ""
    decorators = {ast.unparse(item).rpartition(".")[2] for item in node.decorator_list}
    if any("property" in item or item in ("setter", "getter", "deleter") for item in decorators):
        return ""
    arguments = node.args
    drop_first = in_class and "staticmethod" not in decorators
    long = _arguments(arguments, drop_first=drop_first, defaults=True)
    return shorten_signature(long, _arguments(arguments, drop_first=drop_first, defaults=False))


def _arguments(arguments: ast.arguments, *, drop_first: bool, defaults: bool) -> str:
    positional = [*arguments.posonlyargs, *arguments.args]
    values = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    texts = [_argument(item, value, defaults) for item, value in zip(positional, values, strict=True)]
    if arguments.posonlyargs:
        texts.insert(len(arguments.posonlyargs), "/")
    if drop_first and positional:
        texts = texts[1:]
        if texts[:1] == ["/"]:
            texts = texts[1:]
    if arguments.vararg:
        texts.append(f"*{arguments.vararg.arg}")
    elif arguments.kwonlyargs:
        texts.append("*")
    for item, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        texts.append(_argument(item, value, defaults))
    if arguments.kwarg:
        texts.append(f"**{arguments.kwarg.arg}")
    return f"({', '.join(texts)})"


def _argument(item: ast.arg, value: ast.expr | None, defaults: bool) -> str:
    return item.arg if value is None or not defaults else f"{item.arg}={ast.unparse(value)}"


def _is_private(name: str) -> bool:
    return any(part.startswith("_") and not part.endswith("__") for part in name.split("."))
