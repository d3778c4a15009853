import pytest

from portable.synth.teacher.grounding import find_evidence

PASSAGE = "The red fox jumps over the dog. A blue bird sings in the\n  old oak at dawn."


def evidence(answer: str) -> tuple[str, float] | None:
    found = find_evidence(answer, PASSAGE)
    return None if found is None else (PASSAGE[found.span.start : found.span.end], found.score)


def test_a_verbatim_answer_is_found_whatever_its_white_space_and_case():
    assert evidence("a blue bird  sings in the old oak") == ("A blue bird sings in the\n  old oak", 1.0)


def test_a_changed_word_lowers_the_score():
    span, score = evidence("A green bird sings in the old oak") or ("", 0.0)
    assert span == "A blue bird sings in the\n  old oak"
    assert score == pytest.approx(7 / 8)


def test_words_from_all_over_the_passage_are_poor_evidence():
    assert (evidence("fox dawn oak dog") or ("", 1.0))[1] <= 0.5


def test_nothing_shared_is_no_evidence():
    assert evidence("Napoleon invented bicycles") is None
    assert evidence("?!") is None
    assert evidence("") is None


def test_an_answer_longer_than_the_passage_cannot_score_one():
    found = find_evidence(PASSAGE + " And much more than that was told.", PASSAGE)
    assert found is not None
    assert 0.5 < found.score < 1
