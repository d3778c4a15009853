"""Single tokens: their bytes and their labels."""

import pytest

from portable.engine.server.token_text import token_bytes, token_label
from portable.model.tokenizer import Tokenizer


def test_a_tokens_bytes_are_the_texts_bytes(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("über the 日本 fox 🙂")
    assert b"".join(token_bytes(tokenizer, index) for index in ids).decode() == "über the 日本 fox 🙂"


def test_every_byte_has_its_token(tokenizer: Tokenizer) -> None:
    found = {token_bytes(tokenizer, index) for index in range(tokenizer.vocab_size)}
    assert {bytes([byte]) for byte in range(256)} <= found


def test_labels_of_different_tokens_differ(tokenizer: Tokenizer) -> None:
    labels = [token_label(tokenizer, index) for index in range(tokenizer.vocab_size)]
    assert len(set(labels)) == len(labels)


def test_a_part_of_a_character_is_labelled_by_its_bytes(tokenizer: Tokenizer) -> None:
    part = next(i for i in range(tokenizer.vocab_size) if token_bytes(tokenizer, i) == b"\xe6")
    assert token_label(tokenizer, part) == "bytes:\\xe6"


def test_special_tokens_show_their_name(tokenizer: Tokenizer) -> None:
    assert token_label(tokenizer, tokenizer.eos_token_id) == "<|end|>"


class Pieces:
    """A tokenizer with sentencepiece's byte tokens."""

    class inner:  # noqa: N801  the attribute's name in Tokenizer
        @staticmethod
        def id_to_token(index: int) -> str | None:
            return {0: "<0xE6>", 1: "\ufffd"}.get(index)

    @staticmethod
    def decode(ids: list[int], *, skip_special: bool) -> str:
        return "\ufffd"


@pytest.mark.parametrize(
    ("index", "expected"), [(0, b"\xe6"), (1, "\ufffd".encode()), (2, "\ufffd".encode())]
)
def test_byte_tokens_of_other_vocabularies(index: int, expected: bytes) -> None:
    assert token_bytes(Pieces, index) == expected  # pyright: ignore[reportArgumentType]
