"""Rules as data: words, patterns, kinds of check, what a plug-in adds, and damaged files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from portable.core.errors import ConfigError
from portable.lint.rule import load_catalogue, read_catalogue
from portable.lint.run import lint_source
from portable.lint.settings import Settings
from portable.lint.source import Source
from portable.lint.vocabulary import Patterns, expand
from tests.plugins import install

ROOT = Path(__file__).parents[3]
RULE = """
title: a title
severity: note
consequence: It matters.
remedy: Write something else.
checks:
  - {kind: reference, names: ["maker.{part}"]}
"""
WORDS = {"a": ("x", "y"), "b": ("1",)}


def folder(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / (name.replace("__", "/") + ".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_expand():
    assert expand("p.{a}.{b}", WORDS) == ["p.x.1", "p.y.1"]
    assert expand("plain", WORDS) == ["plain"]
    with pytest.raises(ConfigError, match="no list of words 'c'"):
        expand("{c}", WORDS)


def test_patterns_of_texts():
    patterns = Patterns(["{a}", "{a}:*", "*-z"], WORDS)
    fitting = [text for text in ("x", "y:0", "x:", "a-z", "z", "xy", "x.y", "") if patterns.weight(text)]
    assert fitting == ["x", "y:0", "x:", "a-z"]
    assert not Patterns([], WORDS).weight("")


def test_patterns_of_dotted_names():
    patterns = Patterns(["m.{a}", "m.{a}.get_*"], WORDS, dotted=True)
    weights = [
        patterns.weight(name) for name in ("m.x", "m.x.z", "m.x.get_it", "m.x.get_it.z", "m.xx", "m", "M.x")
    ]
    assert weights == [2, 2, 7, 7, 0, 0, 0]


def test_words_of_a_plugin_join_ours(tmp_path: Path):
    ours = folder(tmp_path / "ours", word__parts="part: [wheel]", some__Q01=RULE)
    theirs = folder(
        tmp_path / "theirs", word__more="part: [wheel, gear]", some__Q02=RULE.replace("maker", "other")
    )
    catalogue = read_catalogue([ours, theirs, tmp_path / "missing"])
    code = "import maker, other\nmaker.wheel\nmaker.gear\nother.gear\nmaker.belt\n"
    found = lint_source(Source(Path("a.py"), code), Settings(), catalogue)
    assert [(item.span.line, item.rule) for item in found] == [(2, "Q01"), (3, "Q01"), (4, "Q02")]
    assert [rule.group for rule in catalogue.values()] == ["some", "some"]


def test_an_installed_plugin_is_found(tmp_path: Path):
    """A package whose conf folder says that its device is called ``zap``."""
    files = {
        "maker/conf/lint/word/device.yaml": "device_type: [zap]\n",
        "maker/__init__.py": "raise ValueError\n",
    }
    site = install(tmp_path, "maker", {"portable.conf": {"maker": "maker.conf"}}, files)
    source = tmp_path / "a.py"
    source.write_text("x.zap()\n")
    command = [sys.executable, "-m", "portable", "lint", str(source)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1, done.stderr
    assert "P01" in done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("title: a title", "titel: a title"), "no 'titel'.*Did you mean 'title'"),
        (("title: a title\n", ""), "the rule has no 'title'"),
        (("severity: note", "severity: fatal"), "severity is one of error, warning, note"),
        (("kind: reference", "kind: referense"), "no kind of check 'referense'.*Did you mean 'reference'"),
        (("names:", "nmaes:"), "has no 'nmaes'.*Did you mean 'names'"),
        (('names: ["maker.{part}"]', "when: called"), "names"),
        (("{part}", "{pat}"), "no list of words 'pat'.*Did you mean 'part'"),
        ((RULE, "- a list"), "expected keys and values"),
        ((RULE, "a: [b"), "cannot be read"),
    ],
)
def test_damaged_rules(tmp_path: Path, change: tuple[str, str], message: str):
    root = folder(tmp_path, word__parts="part: [wheel]", some__Q01=RULE.replace(*change))
    with pytest.raises(ConfigError, match=f"(?s)Q01.*{message}"):
        read_catalogue([root])


def test_an_id_is_used_once(tmp_path: Path):
    root = folder(tmp_path, word__parts="part: [wheel]", some__Q01=RULE, other__Q01=RULE)
    with pytest.raises(ConfigError, match="there is a rule Q01 already"):
        read_catalogue([root])


def test_ours_are_in_order():
    ids = list(load_catalogue())
    assert ids == sorted(ids)
    assert {"E001", "E002", "P01", "P42"} <= set(ids)
