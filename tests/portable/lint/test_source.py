"""Files as they come: encodings, line ends, odd syntax, damage."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from portable.lint.run import lint_file
from portable.lint.settings import Settings
from portable.lint.source import Source, Undecodable, parse, read_source
from tests.portable.lint.example import found

ODD = {
    "empty": "",
    "only a comment": "# torch.cuda",
    "no newline": "x = 1",
    "form feed": "x = 1\n\f\ny = 2\n",
    "match": "match x:\n case {'k': d, **r}: pass\n case [a, *b] | (a, b): pass\n case A(b=1): pass",
    "walrus": "if (n := len(a)) > 1: [y := f(x), y**2]",
    "async": "async def f():\n async with a as b:\n  async for i in b: await i\n return [x async for x in y]",
    "decorators": "@a.b[c](d)\n@(lambda f: f)\n@x if y else z\ndef f(): ...",
    "f-strings": "f'{x!r:>{width}}' f\"{f'{y}'}\"\nx.to(f'{a}cuda')",
    "star imports": "from torch.cuda import *\nfrom . import *\nsynchronize()",
    "exception groups": "try:\n    pass\nexcept* ValueError as e:\n    pass",
    "deletions": "import torch\ndel torch\ntorch.cuda.synchronize()",
    "circles": "a = b\nb = c\nc = a\nx.to(a)\na.cuda.f()",
    "self-assignment": "device = device\nx.to(device)",
    "global at the top": "global x\nnonlocal_ = 1",
    "starred": "f(*a, **k)\nx.to(*a)\ntorch.load(*a)\n[*a, *b]",
    "lambda defaults": "f = lambda device=other, *a, k=1, **b: device",
    "class keywords": "class A(B, metaclass=C, device='cpu'): x: int = 1",
    "chained comparison": "0 < device.type == x < 2",
    "slices": "a[1:2, ...] = b[::, None]\nos.environ['x', 'y']",
    "type comments": "x = []  # type: list[int]",
    "numbers as keys": "{1: 'cuda', None: 'cuda', **a}\nd[1] = 'cuda'\nd[b'device'] = 'cuda'",
    "bad escapes": "x = '\\d'\ny = 'a' is 'b'",
    "unicode names": "ﬁ = 1\nñ = ﬁ",
    "deep attribute": "x" + ".a" * 2000,
    "long sum": "x.to(" + " + ".join(["a"] * 900) + ")",
    "nested calls": "f(" * 80 + ")" * 80,
}


@pytest.mark.parametrize("name", ODD)
def test_odd_code_is_read_and_innocent(name: str):
    assert found(ODD[name]) == []


@pytest.mark.parametrize(
    "text", ["def f(:", "print 'x'", "x = (", "\x00", "(" * 300 + ")" * 300, "return\n  x", "ñ ="]
)
def test_damaged_code_is_a_finding(text: str):
    assert [rule for _, rule in found(text)] == ["E001"]


def test_damaged_code_says_where_and_why(tmp_path: Path):
    path = tmp_path / "a.py"
    path.write_text("x = 1\ny = = 2\n")
    (finding,) = lint_file(path, Settings()).findings
    assert (finding.span.line, finding.source) == (2, "y = = 2")
    assert "invalid syntax" in finding.message
    assert lint_file(path, Settings(ignore=("E001",))).findings == ()


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", "utf-8-sig", "cp1251", "euc-jp", "shift_jis"])
def test_declared_encodings(tmp_path: Path, encoding: str):
    word = {"cp1251": "я", "euc-jp": "装置", "shift_jis": "装置"}.get(encoding, "é")
    declared = "" if encoding.startswith("utf-8") else f"# -*- coding: {encoding} -*-\n"
    path = tmp_path / "a.py"
    path.write_bytes(f"{declared}a = '{word}'; x.cuda()\n".encode(encoding))
    (finding,) = lint_file(path, Settings()).findings
    assert finding.rule == "P01"
    assert finding.source[finding.span.column : finding.span.end_column] == "x.cuda()"
    source = read_source(path)
    assert source.encode(source.text) == path.read_bytes()


@pytest.mark.parametrize(
    "data", [b"a = '\xff'\n", b"# coding: no-such-thing\n", b"\xef\xbb\xbf# coding: latin-1\n"]
)
def test_bytes_that_are_no_text(tmp_path: Path, data: bytes):
    path = tmp_path / "a.py"
    path.write_bytes(data)
    assert [item.rule for item in lint_file(path, Settings()).findings] == ["E001"]
    with pytest.raises(Undecodable):
        read_source(path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends(end: str):
    assert found(end.join(["a = 1", "", "x.cuda()", "s = '''", "'''; y.cuda()", ""])) == [
        (3, "P01"),
        (5, "P01"),
    ]


def test_positions_are_characters_and_round_trip():
    text = "é = 'ü'; ﬀ.cuda()\r\nx = '日本', y.cuda()\n"
    source = Source(Path("a.py"), text)
    calls = [node for node in ast.walk(parse(text)) if isinstance(node, ast.Call)]
    assert sorted(text[slice(*source.bounds(call))] for call in calls) == ["y.cuda()", "ﬀ.cuda()"]
    assert source.line(1) == "é = 'ü'; ﬀ.cuda()"
    assert source.line(9) == ""


def test_unreadable_file_is_an_error(tmp_path: Path):
    report = lint_file(tmp_path / "missing.py", Settings())
    assert report.error == "No such file or directory"
    assert report.findings == ()
