"""Case and white space do not make a text another one; anything else does."""

import pytest

from portable.data.dedup.exact import content_hash


@pytest.mark.parametrize("other", ["the  CAT\nsat", " The cat sat ", "the\tcat sat"])
def test_case_and_white_space_do_not_count(other):
    assert content_hash("The cat sat") == content_hash(other)


@pytest.mark.parametrize("other", ["The cat sat.", "Thecat sat", "The cat sad", ""])
def test_everything_else_does(other):
    assert content_hash("The cat sat") != content_hash(other)


def test_the_hash_is_stable_over_versions():
    # A changed hash would change every corpus.
    assert content_hash("The cat sat") == 0x80626C4CE4310DD
