"""MinHash: shingles against a plain count, bands against the theory."""

import random

import numpy as np
import pytest

from portable.data.dedup.minhash import band_hashes, jaccard, shingle_text

VOCABULARY = [f"word{n}" for n in range(3000)]


def _plain_jaccard(left, right, ngram=5):
    sets = [
        {tuple(text.split()[i : i + ngram]) for i in range(len(text.split()) - ngram + 1)}
        for text in (left, right)
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def _pair(rng, length, changes):
    words = rng.choices(VOCABULARY, k=length)
    other = list(words)
    for place in rng.sample(range(length), changes):
        other[place] = rng.choice(VOCABULARY)
    return " ".join(words), " ".join(other)


@pytest.mark.parametrize("changes", [0, 1, 3, 10, 60])
def test_jaccard_of_shingles_is_that_of_word_ngrams(changes):
    left, right = _pair(random.Random(changes), 120, changes)
    assert jaccard(shingle_text(left, 5), shingle_text(right, 5)) == pytest.approx(
        _plain_jaccard(left, right)
    )


def test_case_and_punctuation_do_not_count_but_numbers_do():
    one = shingle_text("The cat, (sat) on THE mat: 12 times!", 5)
    assert np.array_equal(one, shingle_text("the cat sat on the mat 12 times", 5))
    assert not np.array_equal(one, shingle_text("the cat sat on the mat 13 times", 5))


def test_word_order_counts():
    assert not np.array_equal(shingle_text("a b c d e f", 5), shingle_text("f e d c b a", 5))


@pytest.mark.parametrize("text", ["", "one", "one two three", "?!"])
def test_texts_shorter_than_an_ngram_are_one_shingle(text):
    assert shingle_text(text, 5).size == 1
    assert band_hashes(shingle_text(text, 5), 3, 2).shape == (3,)


def test_texts_without_words_are_compared_as_they_are():
    assert shingle_text("?!", 5) != shingle_text("--", 5)


def test_bands_agree_as_often_as_the_theory_says():
    rng = random.Random(0)
    similarities, agreements = [], []
    for _ in range(150):
        left, right = (shingle_text(text, 5) for text in _pair(rng, 150, 4))
        similarities.append(jaccard(left, right))
        agreements.append(np.mean(band_hashes(left, 50, 4) == band_hashes(right, 50, 4)))
    expected = np.mean(np.array(similarities) ** 4)
    # 150 pairs of 50 bands: the mean's own error is about 0.01.
    assert np.mean(agreements) == pytest.approx(expected, abs=0.04)


def test_equal_texts_share_all_bands_and_unlike_ones_none():
    rng = random.Random(1)
    left, right = (" ".join(rng.choices(VOCABULARY, k=100)) for _ in range(2))
    bands = band_hashes(shingle_text(left, 5), 14, 8)
    assert np.array_equal(bands, band_hashes(shingle_text(left.upper(), 5), 14, 8))
    assert not np.any(bands == band_hashes(shingle_text(right, 5), 14, 8))
    assert len(set(bands.tolist())) == 14


def test_long_texts_are_hashed_in_blocks_with_the_same_result():
    text = " ".join(f"w{n}" for n in range(9000))
    shingles = shingle_text(text, 5)
    assert shingles.size > 8192
    whole = np.minimum.reduce([band_hashes(part, 1, 1) for part in (shingles,)])
    shuffled = shingles.copy()
    np.random.Generator(np.random.PCG64(0)).shuffle(shuffled)
    assert np.array_equal(whole, band_hashes(shuffled, 1, 1))
