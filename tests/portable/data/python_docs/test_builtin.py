"""What is written in C and documented."""

import pytest

from portable.data.python_docs.builtin import SAFE_MODULES, read_builtins


@pytest.fixture(scope="module")
def entries():
    return {entry.name: entry for entry in read_builtins(include_private=True)}


@pytest.mark.parametrize(
    ("name", "kind", "module", "signature", "words"),
    [
        ("str.join", "method", "builtins", "(iterable, /)", "Concatenate any number of strings"),
        ("len", "function", "builtins", "(obj, /)", "number of items"),
        ("dict", "class", "builtins", "", "new empty dictionary"),
        ("math.sqrt", "function", "math", "(x, /)", "square root"),
        ("collections.deque.append", "method", "collections", "", "right side"),
        ("unicodedata.bidirectional", "function", "unicodedata", "(chr, /)", "bidirectional class"),
        ("math", "module", "math", "", "mathematical functions"),
    ],
)
def test_well_known_things_are_there(entries, name, kind, module, signature, words):
    entry = entries[name]
    assert (entry.kind, entry.module, entry.signature) == (kind, module, signature)
    assert words in entry.doc


@pytest.mark.parametrize(
    "name", ["collections.Counter", "functools.wraps", "re.compile", "os.path", "IOError"]
)
def test_python_code_and_aliases_are_left_to_others(entries, name):
    assert name not in entries


def test_docstrings_are_clean_and_dunders_of_classes_left_out(entries):
    assert all(entry.doc == entry.doc.strip() for entry in entries.values())
    assert not [
        name
        for name in entries
        if name.rpartition(".")[2].startswith("__") and entries[name].kind == "method"
    ]


def test_reading_twice_gives_the_same_in_order_of_modules(entries):
    again = list(read_builtins(include_private=True))
    assert again == list(entries.values())
    order = [SAFE_MODULES.index(entry.module) for entry in again]
    assert order == sorted(order)


def test_a_thing_of_two_modules_is_told_once(entries):
    assert "open" in entries
    assert "io.open" not in entries


def test_hooks_that_a_program_replaces_are_told_as_python_has_them(entries, monkeypatch):
    """Libraries put their own in when they are imported; a corpus must not depend on which were."""
    monkeypatch.setattr("sys.excepthook", lambda *about: None)
    assert entries["sys.excepthook"].signature == "(exctype, value, traceback, /)"
    assert list(read_builtins(include_private=True)) == list(entries.values())
