"""Text that grows: characters and stop strings across token boundaries."""

import random

import pytest

from portable.engine.detokenize import TextAssembler
from portable.model.tokenizer import Tokenizer


def assemble(
    tokenizer: Tokenizer, ids: list[int], stop: tuple[str, ...] = ()
) -> tuple[list[str], TextAssembler]:
    assembler = TextAssembler(tokenizer, stop)
    pieces = [assembler.push(index) for index in ids]
    return [*pieces, assembler.finish()], assembler


def letters(tokenizer: Tokenizer, text: str) -> list[int]:
    """One token a byte, so that every boundary falls inside words and characters."""
    return [index for char in text for byte in [char.encode()] for index in byte_tokens(tokenizer, byte)]


def byte_tokens(tokenizer: Tokenizer, raw: bytes) -> list[int]:
    from portable.engine.server.token_text import token_bytes

    singles = {token_bytes(tokenizer, index): index for index in range(tokenizer.vocab_size)}
    return [singles[bytes([byte])] for byte in raw]


@pytest.mark.parametrize(
    "text", ["the quick fox", "über naïve", "日本 1 + 2", "a 🙂 b", "\ufffd and more", ""]
)
def test_pieces_add_up_to_the_text(tokenizer: Tokenizer, text: str) -> None:
    for ids in (tokenizer.encode(text), letters(tokenizer, text)):
        pieces, _ = assemble(tokenizer, ids)
        assert "".join(pieces) == text


def test_half_a_character_is_held_until_it_is_whole(tokenizer: Tokenizer) -> None:
    pieces, _ = assemble(tokenizer, letters(tokenizer, "日x"))
    assert pieces == ["", "", "日", "x", ""]


def test_bytes_that_never_become_a_character_end_as_replacement(tokenizer: Tokenizer) -> None:
    pieces, _ = assemble(tokenizer, byte_tokens(tokenizer, b"a\xe6\x97"))
    assert "".join(pieces) == tokenizer.decode(byte_tokens(tokenizer, b"a\xe6\x97"))
    assert pieces[0] == "a"


def test_any_tokens_add_up_to_what_decoding_at_once_gives(tokenizer: Tokenizer) -> None:
    rng = random.Random(0)
    for _ in range(50):
        ids = [rng.randrange(tokenizer.vocab_size) for _ in range(rng.randrange(1, 40))]
        pieces, _ = assemble(tokenizer, ids)
        assert "".join(pieces) == tokenizer.decode(ids)


def test_special_tokens_leave_no_text(tokenizer: Tokenizer) -> None:
    pieces, _ = assemble(tokenizer, [tokenizer.eos_token_id, *tokenizer.encode("dog")])
    assert "".join(pieces) == "dog"


@pytest.mark.parametrize("stop", ["fox", "k f", " jum", "ox ju"])
def test_stop_string_ends_the_text_before_itself_wherever_tokens_break(
    tokenizer: Tokenizer, stop: str
) -> None:
    text = "the quick fox jumps"
    for ids in (tokenizer.encode(text), letters(tokenizer, text)):
        pieces, assembler = assemble(tokenizer, ids, (stop,))
        assert "".join(pieces) == text[: text.index(stop)]
        assert assembler.stopped


def test_stop_is_noticed_at_the_token_that_completes_it(tokenizer: Tokenizer) -> None:
    assembler = TextAssembler(tokenizer, ("ox",))
    states = []
    for index in letters(tokenizer, "foxy"):
        assembler.push(index)
        states.append(assembler.stopped)
    assert states == [False, False, True, True]


def test_the_beginning_of_a_stop_is_held_back_and_released(tokenizer: Tokenizer) -> None:
    pieces, assembler = assemble(tokenizer, letters(tokenizer, "fob"), ("fox",))
    assert pieces == ["", "", "fob", ""]
    assert not assembler.stopped


def test_what_is_held_back_comes_out_at_the_end(tokenizer: Tokenizer) -> None:
    pieces, assembler = assemble(tokenizer, letters(tokenizer, "a fo"), ("fox",))
    assert "".join(pieces) == "a fo"
    assert pieces[-1] == "fo"
    assert not assembler.stopped


def test_the_earliest_of_several_stops_wins(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("the quick fox jumps")
    pieces, _ = assemble(tokenizer, ids, ("jumps", "quick"))
    assert "".join(pieces) == "the "


def test_a_false_start_inside_a_stop_is_not_lost(tokenizer: Tokenizer) -> None:
    pieces, assembler = assemble(tokenizer, letters(tokenizer, "aaab!"), ("aab",))
    assert "".join(pieces) == "a"
    assert assembler.stopped


def test_nothing_follows_a_stop(tokenizer: Tokenizer) -> None:
    pieces, _ = assemble(tokenizer, letters(tokenizer, "dog fox"), ("o",))
    assert "".join(pieces) == "d"
