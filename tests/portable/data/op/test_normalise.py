"""Mended text, and text that needs no mending left alone."""

import pytest

from portable.core.record import Document
from portable.data.op.normalise import Normalise
from portable.data.op.protocol import OpKind, Rejection


def _text(text, **settings):
    return Normalise(**settings)(Document(text, "a")).text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a\r\nb\rc", "a\nb\nc"),
        ("a  \n b\t\n", "a\n b"),
        ("a\n\n\n\n\nb", "a\n\nb"),
        ("a\n \n\t\n\n b", "a\n\n b"),
        ("naÃ¯ve cafÃ©", "naïve café"),
        ("e\u0301", "\u00e9"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("bell\x07 and \x1b[1mbold", "bell and [1mbold"),
        ("\n\n  indented\n    more\n", "  indented\n    more"),
        ("&lt;b&gt; &amp; “curly”", "&lt;b&gt; &amp; “curly”"),
        ("full-width: Ａ", "full-width: Ａ"),
    ],
)
def test_text_becomes_what_was_meant(before, after):
    assert _text(before) == after


def test_normalising_twice_changes_nothing_more():
    for before in ("naÃ¯ve \r\n\r\n\r\n x ", "a\t\n\nb", "plain"):
        once = _text(before)
        assert _text(once) == once


def test_settings_are_heeded():
    assert _text("a\n\n\n\n\nb", max_blank_lines=3) == "a\n\n\n\nb"
    assert _text("naÃ¯ve e\u0301", fix_encoding=False) == "naÃ¯ve \u00e9"


def test_an_unchanged_document_is_the_same_object():
    document = Document("plain text", "a", {"k": 1})
    assert Normalise()(document) is document


def test_id_and_metadata_stay():
    document = Normalise()(Document("a \n", "a", {"k": 1}))
    assert document == Document("a", "a", {"k": 1})


@pytest.mark.parametrize("text", ["", " \n\t ", "\x00\x01\u200b"])
def test_nothing_left_is_a_rejection(text):
    assert Normalise()(Document(text, "a")) == Rejection("empty")
    assert Normalise.kind is OpKind.mapper
