"""Docstrings and signatures out of source text."""

import ast

import pytest

from portable.data.python_docs.package import find_modules, parse_module, read_module, signature_of

SOURCE = b'''"""The module."""
import sys

def f(a, b: int = 1, *, c: str = "x") -> int:
    """Do f.

        Indented.

    Not.
    """

async def g(): "Do g."

def undocumented(): pass

def _private(): "Hidden."

class C(Base):
    """A class."""

    def __init__(self, x, y=2): "Make one."

    @property
    def p(self): "A property."

    @staticmethod
    def s(a): "Static."

    class Inner: "Inner class."

if sys.platform == "linux":
    def only_linux(): "Linux."
try:
    def tried(): "Tried."
except ImportError:
    pass
'''


def _entries(source=SOURCE, *, include_private=True):
    return list(parse_module(source, "pkg.mod", include_private=include_private))


def test_everything_documented_is_found_in_order_of_line():
    found = [(entry.kind, entry.name.removeprefix("pkg.mod"), entry.signature) for entry in _entries()]
    assert found == [
        ("module", "", ""),
        ("function", ".f", "(a, b=1, *, c='x')"),
        ("function", ".g", "()"),
        ("function", "._private", "()"),
        ("class", ".C", "(x, y=2)"),
        ("method", ".C.__init__", "(x, y=2)"),
        ("method", ".C.p", ""),
        ("method", ".C.s", "(a)"),
        ("class", ".C.Inner", ""),
        ("function", ".only_linux", "()"),
        ("function", ".tried", "()"),
    ]


def test_docstrings_lose_their_indentation():
    assert _entries()[1].doc == "Do f.\n\n    Indented.\n\nNot."


def test_private_things_can_be_left_out():
    names = [entry.name for entry in _entries(include_private=False)]
    assert "pkg.mod._private" not in names
    assert "pkg.mod.C.__init__" in names
    assert list(parse_module(SOURCE, "pkg._mod", include_private=False)) == []


@pytest.mark.parametrize("source", [b"def broken(:", b"\xff\xfe", b"x = '\x00'"])
def test_what_does_not_parse_is_passed_over(source):
    assert _entries(source) == []


@pytest.mark.parametrize(
    ("definition", "signature"),
    [
        ("def f(): ...", "()"),
        ("def f(a, /, b=None, *args, c, d=1, **kw): ...", "(a, /, b=None, *args, c, d=1, **kw)"),
        ("def f(*, c): ...", "(*, c)"),
        ("def f(a: dict[str, int] = {}) -> None: ...", "(a={})"),
        ("@functools.cached_property\ndef f(self): ...", ""),
        ("@x.setter\ndef f(self, v): ...", ""),
        ("class C: ...", ""),
        ("class C:\n def __init__(self, /, a): ...", "(a)"),
    ],
)
def test_signatures(definition, signature):
    assert signature_of(ast.parse(definition).body[0]) == signature


def test_methods_do_not_show_self():
    node = ast.parse("def f(self, a): ...").body[0]
    assert signature_of(node, in_class=True) == "(a)"


def test_modules_are_found_by_path_without_tests_and_vendored_code(tmp_path):
    for name in (
        "__init__.py",
        "b.py",
        "a/__init__.py",
        "a/c.py",
        "tests/t.py",
        "_vendor/v.py",
        "a/data.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('"""Doc."""')
    modules = find_modules(tmp_path, "pkg")
    assert list(modules) == ["pkg", "pkg.a", "pkg.a.c", "pkg.b"]
    assert list(find_modules(tmp_path, ""))[1:] == ["a", "a.c", "b"]
    (entry,) = read_module(modules["pkg.a.c"], "pkg.a.c", include_private=True)
    assert entry.doc == "Doc."
