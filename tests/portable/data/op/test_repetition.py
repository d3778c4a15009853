"""Repetition: the statistics against a plain count, the thresholds at their edges."""

from collections import Counter

import pytest

from portable.core.record import Document
from portable.data.op.protocol import Rejection
from portable.data.op.repetition import Repetition, measure_repetition

VARIED = " ".join(f"word{n}" for n in range(150))


def _plain_top(words, size):
    grams = Counter(tuple(words[i : i + size]) for i in range(len(words) - size + 1))
    most = max(grams.values(), default=1)
    if most == 1:
        return 0.0
    best = max(sum(map(len, gram)) * most for gram, count in grams.items() if count == most)
    return best / sum(map(len, words))


def _plain_repeated(words, size):
    seen, covered = set(), set()
    for i in range(len(words) - size + 1):
        gram = tuple(words[i : i + size])
        if gram in seen:
            covered.update(range(i, i + size))
        seen.add(gram)
    return sum(len(words[i]) for i in covered) / sum(map(len, words))


@pytest.mark.parametrize(
    "text",
    [
        "a b a b a b c d e f g a b c d e f g h",
        "one two three four five six one two three four five six seven one two three four five six",
        "x " * 40,
        "short",
        VARIED,
    ],
)
def test_ngram_shares_agree_with_a_plain_count(text):
    words = text.split()
    stats = measure_repetition(text, words, 3, 6)
    assert stats.top_ngram_chars == pytest.approx([_plain_top(words, size) for size in (2, 3, 4)])
    assert stats.repeated_ngram_chars == pytest.approx(
        [_plain_repeated(words, size) for size in range(5, 11)]
    )


def test_lines_and_paragraphs_count_from_the_second_on():
    text = "one\ntwo\none\n\nthree\n\nthree\n\none"
    stats = measure_repetition(text, text.split(), 3, 6)
    assert stats.repeated_lines == pytest.approx(3 / 6)
    assert stats.repeated_line_chars == pytest.approx(11 / 22)
    assert stats.repeated_paragraphs == pytest.approx(1 / 4)
    assert stats.repeated_paragraph_chars == pytest.approx(5 / (11 + 5 + 5 + 3))


def test_rules_of_tables_do_not_count():
    text = "+----+\n| a |\n+----+\n| b |\n+----+"
    assert measure_repetition(text, text.split(), 3, 6).repeated_lines == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("the same line of text\n" * 40, "repeated_lines"),
        ("\n\n".join(["alpha beta gamma", *(f"w{n} " * 3 for n in range(4))] * 12), "repeated_lines"),
        (" ".join(f"very nice w{n}" for n in range(60)), "top_ngram"),
        (VARIED + " " + " ".join(VARIED.split()[:40]), "repeated_ngrams"),
    ],
)
def test_each_kind_of_repetition_has_its_reason(text, reason):
    assert Repetition()(Document(text, "a")) == Rejection(reason)


def test_paragraphs_are_judged_on_their_own():
    paragraph = "\n".join(f"line {n} of it" for n in range(4))
    text = "\n\n".join([paragraph, VARIED, paragraph])
    loose = {"max_repeated_lines": 1.0, "max_repeated_line_chars": 1.0}
    assert Repetition(**loose)(Document(text, "a")) == Rejection("repeated_paragraphs")


def test_varied_and_short_texts_pass():
    for text in (VARIED, "again and again " * 20):
        document = Document(text, "a")
        assert Repetition()(document) is document
    assert Repetition(min_words=0)(Document("again and again " * 20, "a")) == Rejection("top_ngram")


def test_empty_thresholds_switch_ngrams_off():
    document = Document(" ".join(f"very nice w{n}" for n in range(60)), "a")
    assert Repetition(max_top_ngrams=[], max_repeated_ngrams=[])(document) is document
