"""Bounds are included."""

import pytest

from portable.core.record import Document
from portable.data.op.length import Length
from portable.data.op.protocol import Rejection


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("a b c d e", None),
        ("a b c d ", "too_short"),
        ("a b c d e f g h i j", None),
        ("a b c d e f g h i jk", "too_long"),
        ("aaa bbb cc", "too_few_words"),
        ("a\nb\tc  d e", None),
    ],
)
def test_bounds(text, outcome):
    document = Document(text, "a")
    expected = document if outcome is None else Rejection(outcome)
    assert Length(min_chars=9, max_chars=19, min_words=5)(document) == expected
