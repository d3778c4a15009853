"""Docstrings of builtins and of the modules written in C, which have no source to read."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from enum import EnumType
from types import ModuleType

from portable.data.python_docs.page import Entry, shorten_signature

# Modules of the standard library whose import has no effect beyond itself.
SAFE_MODULES = (
    *("builtins", "array", "atexit", "binascii", "cmath", "collections", "datetime", "decimal", "errno"),
    *("faulthandler", "fcntl", "functools", "gc", "grp", "io", "itertools", "marshal", "math", "mmap"),
    *("operator", "os", "pwd", "pyexpat", "re", "resource", "select", "signal", "socket", "sqlite3", "ssl"),
    *("stat", "struct", "sys", "syslog", "termios", "threading", "time", "types", "unicodedata", "weakref"),
    "zlib",
)  # fmt: skip


def read_builtins(*, include_private: bool) -> Iterator[Entry]:
    """Yield what is written in C in ``SAFE_MODULES``, modules in that order, members by name.

    A module that this platform lacks is passed over, and so is whatever has Python source, for ``package``
    reads that. A thing that several modules export is told once, under its first name.
    """
    seen: set[int] = set()
    for name in SAFE_MODULES:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        yield from _read_module(module, seen, include_private=include_private)


def _read_module(module: ModuleType, seen: set[int], *, include_private: bool) -> Iterator[Entry]:
    prefix = "" if module.__name__ == "builtins" else f"{module.__name__}."
    if not str(getattr(module, "__file__", "")).endswith(".py"):
        yield from _entry(module, module.__name__, module.__name__, "module")
    members = vars(module)
    for name in sorted(members):
        value, original = members[name], members.get(f"__{name}__")
        if inspect.isroutine(original):  # programs replace hooks such as sys.excepthook; this one stays
            value = original
        if (name.startswith("_") and not include_private) or name.startswith("__") or _has_source(value):
            continue
        # Aliases (IOError for OSError) carry another name than their own.
        if id(value) in seen or getattr(value, "__name__", name) != name:
            continue
        if inspect.isclass(value):
            seen.add(id(value))
            yield from _read_class(value, prefix + name, module.__name__)
        elif inspect.isroutine(value):
            seen.add(id(value))
            yield from _entry(value, prefix + name, module.__name__, "function")


def _read_class(cls: type, name: str, module: str) -> Iterator[Entry]:
    yield from _entry(cls, name, module, "class")
    for member, value in sorted(vars(cls).items()):
        # Dunders of builtin types all say "Return self+value." and the like: thousands of times the same.
        if member.startswith("__") or _has_source(value) or inspect.isclass(value):
            continue
        if inspect.isroutine(value) or inspect.isdatadescriptor(value):
            yield from _entry(value, f"{name}.{member}", module, "method")


def _entry(value: object, name: str, module: str, kind: str) -> Iterator[Entry]:
    # The object's own text only: inspect.getdoc would inherit a base class's.
    doc = getattr(value, "__doc__", None)
    if isinstance(doc, str) and doc.strip():
        signature = "" if kind == "module" else _signature(value, drop_first=kind == "method")
        yield Entry(name, module, kind, inspect.cleandoc(doc).strip(), signature)


def _signature(value: object, *, drop_first: bool) -> str:
    text = getattr(value, "__text_signature__", None)
    if not isinstance(text, str) or not text.startswith("("):
        return ""
    names = [part.strip() for part in text[1:-1].split(",")]
    # "$self" or "$module": bound already. Some methods write a plain "self" instead.
    if names[0].startswith("$") or (drop_first and names[0] == "self"):
        names = names[1:]
    if names[:1] == ["/"]:
        names = names[1:]
    return shorten_signature(
        f"({', '.join(names)})", f"({', '.join(part.partition('=')[0] for part in names)})"
    )


def _has_source(value: object) -> bool:
    """Return whether Python code made a function or class; then its file is read elsewhere."""
    if inspect.isclass(value):
        return isinstance(value, EnumType) or any(
            hasattr(member, "__code__") for member in vars(value).values()
        )
    return hasattr(value, "__code__") or hasattr(value, "__wrapped__")
