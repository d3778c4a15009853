"""Letters, hash signs, ellipses."""

import pytest

from portable.core.record import Document
from portable.data.op.protocol import Rejection
from portable.data.op.symbol import Symbol, measure_symbols

PROSE = "plain words of text " * 20


def test_statistics():
    stats = measure_symbols("ab 12 #x ... …")
    assert stats.num_words == 5
    assert stats.letters == pytest.approx(3 / 10)
    assert stats.hashes_per_word == pytest.approx(1 / 5)
    assert stats.ellipses_per_word == pytest.approx(2 / 5)
    assert measure_symbols("").letters == 0.0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("12 34 56 + - * a", "few_letters"),
        ("", "few_letters"),
        ("#tag word " * 40, "hash_signs"),
        ("word and... " * 40, "ellipses"),
        ("word and… " * 40, "ellipses"),
        (PROSE, None),
        ("See ticket #12 ...", None),
        ("Привет мир, как дела", None),
    ],
)
def test_thresholds(text, reason):
    document = Document(text, "a")
    assert Symbol()(document) == (document if reason is None else Rejection(reason))


def test_a_short_text_is_judged_by_its_letters_only():
    assert Symbol(min_words=3)(Document("See ticket #12 ...", "a")) == Rejection("hash_signs")
    assert Symbol(min_letters=0.9)(Document("See ticket #12 ...", "a")) == Rejection("few_letters")
