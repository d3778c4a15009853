import lzma
import math
import random

import pytest

from portable.core.errors import DataError
from portable.train.baseline import unigram_bits_per_byte, xz_bits_per_byte


def test_unigram_is_the_cross_entropy_with_one_added_to_each_count():
    bits = unigram_bits_per_byte([b"aab"], [b"ab", b"c"])
    total = 3 + 256
    expected = -(math.log2(3 / total) + math.log2(2 / total) + math.log2(1 / total)) / 3
    assert bits == pytest.approx(expected)


def test_unigram_of_uniform_bytes_is_eight_bits():
    text = bytes(range(256)) * 10
    assert unigram_bits_per_byte([text], [text]) == pytest.approx(8.0)


def test_xz_alone_is_the_size_of_the_file():
    text = b"the quick brown fox " * 50
    expected = len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) * 8 / len(text)
    assert xz_bits_per_byte(text) == expected


def test_xz_that_has_read_the_training_text_knows_it():
    stream = random.Random(0)
    text = bytes(stream.randrange(256) for _ in range(4000))
    assert xz_bits_per_byte(text) > 8.0
    assert xz_bits_per_byte(text, train=text) < 0.2


@pytest.mark.parametrize(
    "measure", [lambda: unigram_bits_per_byte([b"a"], []), lambda: xz_bits_per_byte(b"")]
)
def test_without_held_out_text_there_is_no_figure(measure):
    with pytest.raises(DataError, match="the held-out split holds no text"):
        measure()
