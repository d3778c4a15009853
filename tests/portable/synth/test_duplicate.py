import random

import pytest

from portable.synth.duplicate import QuestionIndex, telling_words


def test_the_same_question_in_other_words_of_asking_is_refused():
    index = QuestionIndex()
    assert index.add("What does str.join do?")
    assert not index.add("what is STR.JOIN for")
    assert index.add("What does str.split do?")
    assert index.add("Which module defines str.join?")


def test_a_refused_question_is_forgotten():
    index = QuestionIndex(0.5)
    assert index.add("red green")
    assert not index.add("green red blue")
    # Remembered, it would refuse this one; against the first the overlap is 1 of 3.
    assert index.add("blue red yellow")


def test_a_question_of_asking_words_only_still_counts():
    assert telling_words("What is it?") == {"what", "is", "it"}
    index = QuestionIndex()
    assert index.add("What is it?")
    assert not index.add("what is it")


@pytest.mark.parametrize("threshold", [0.4, 0.6, 0.7, 0.9, 1.0])
def test_prefix_filtering_misses_nothing(threshold: float):
    rng = random.Random(5)
    vocabulary = [f"w{number}" for number in range(12)]
    questions = [" ".join(rng.sample(vocabulary, rng.randint(1, 8))) for _ in range(400)]
    index, kept = QuestionIndex(threshold), []
    for question in questions:
        mine = set(question.split())
        near = any(len(mine & other) / len(mine | other) >= threshold for other in kept)
        assert index.add(question) == (not near)
        if not near:
            kept.append(mine)
    assert 0 < len(kept) < len(questions)
