import pytest
from hypothesis import given
from hypothesis import strategies as st

from portable.eval.scorer.match import exact_match, normalise, token_f1


def test_case_punctuation_and_articles_do_not_count():
    assert normalise("The Fox, an animal!") == ["fox", "animal"]
    assert exact_match("A fox.", "the  FOX") == 1.0
    assert exact_match("fox red", "red fox") == 0.0


def test_dotted_names_fall_into_parts_and_cjk_into_characters():
    assert normalise("os.path_join(a1)") == ["os", "path_join", "a1"]
    assert normalise("返回x值") == ["返", "回", "x", "值"]


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("red fox", "red fox", 1.0),
        ("red fox", "blue bird", 0.0),
        ("red fox", "red", 2 / 3),  # precision 1/2, recall 1
        ("fox", "fox fox", 2 / 3),  # multiplicity counts: 1 of 2
        ("fox fox fox", "fox", 0.5),
        ("", "fox", 0.0),
        ("fox", "", 0.0),
        ("the", "", 1.0),
    ],
)
def test_f1(answer: str, reference: str, score: float):
    assert token_f1(answer, reference) == pytest.approx(score)


@given(st.text("abc ", max_size=12), st.text("abc ", max_size=12))
def test_f1_is_symmetric_and_bounded(left: str, right: str):
    score = token_f1(left, right)
    assert 0 <= score <= 1
    assert score == token_f1(right, left)
    assert token_f1(left, left) == 1
