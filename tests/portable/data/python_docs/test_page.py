"""How a page looks."""

import pytest

from portable.data.python_docs.page import Entry, make_page, shorten_signature


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (Entry("str.join", "builtins", "method", "Join.", "(it, /)"), "str.join(it, /)\n\nJoin."),
        (Entry("json", "json", "module", "JSON."), "module json\n\nJSON."),
        (Entry("a.B", "a", "class", "A b.", "(x)"), "class a.B(x)\n\nA b."),
        (Entry("with", "pydoc_data.topics", "topic", "The with statement\n***"), "The with statement\n***"),
    ],
)
def test_headline_then_docstring(entry, text):
    assert make_page(entry).text == text


def test_ids_and_metadata_tell_what_it_is():
    page = make_page(Entry("str.join", "builtins", "method", "Join.", "(it, /)"))
    assert page.id == "python_docs/method/str.join"
    assert page.metadata == {
        "source": "python_docs",
        "name": "str.join",
        "module": "builtins",
        "kind": "method",
        "signature": "(it, /)",
    }


def test_long_signatures_lose_their_defaults_then_their_tail():
    assert shorten_signature("(a=1, b=2)", "(a, b)") == "(a=1, b=2)"
    assert shorten_signature("(a=" + "1" * 300 + ")", "(a)") == "(a)"
    names = "(" + ", ".join(f"name{n}" for n in range(100)) + ")"
    short = shorten_signature(names, names)
    assert short.startswith("(name0, name1, ")
    assert short.endswith(", ...)")
    assert len(short) <= 250
    assert "name" in short.split(", ")[-2]
