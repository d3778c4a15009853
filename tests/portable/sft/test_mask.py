import logging

import pytest

from portable.core.errors import DataError
from portable.core.record import Conversation, Message
from portable.model.chat import render_prompt
from portable.model.tokenizer import Tokenizer
from portable.sft.config import Overlong
from portable.sft.mask import to_example, to_examples


def test_only_the_assistants_words_and_its_stop_are_learnt(
    tokenizer: Tokenizer, conversations: list[Conversation]
):
    example = to_example(tokenizer, conversations[0])
    learnt = [
        target for target, is_learnt in zip(example.target_ids, example.learnt, strict=True) if is_learnt
    ]
    assert tokenizer.decode(learnt, skip_special=False) == "The fox is red.<|end|>"


def test_targets_are_the_inputs_one_place_on(tokenizer: Tokenizer, conversations: list[Conversation]):
    example = to_example(tokenizer, conversations[0])
    assert example.input_ids[1:] == example.target_ids[:-1]
    assert example.target_ids[-1] == tokenizer.eos_token_id
    # The first learnt target is predicted from exactly what an engine is given as a prompt.
    first = example.learnt.index(True)
    assert list(example.input_ids[: first + 1]) == render_prompt(tokenizer, conversations[0].messages[:1])


def test_every_assistant_turn_is_learnt(tokenizer: Tokenizer):
    turns = (
        Message("user", "a"),
        Message("assistant", "red"),
        Message("user", "b"),
        Message("assistant", "blue"),
    )
    example = to_example(tokenizer, Conversation(turns, "x"))
    learnt = [
        target for target, is_learnt in zip(example.target_ids, example.learnt, strict=True) if is_learnt
    ]
    assert tokenizer.decode(learnt, skip_special=False) == "red<|end|>blue<|end|>"


def long_and_short(length: int) -> list[Conversation]:
    long = Conversation((Message("user", "q"), Message("assistant", "a" * length)), "long")
    endless = Conversation((Message("user", "q" * length), Message("assistant", "a")), "endless question")
    return [long, Conversation((Message("user", "q"), Message("assistant", "a")), "short"), endless]


@pytest.mark.parametrize(
    ("overlong", "lengths", "said"),
    [(Overlong.drop, [5], "2 dropped, 0 truncated"), (Overlong.truncate, [10, 5], "1 dropped, 1 truncated")],
)
def test_what_is_too_long_is_never_lost_in_silence(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture, overlong: Overlong, lengths: list[int], said: str
):
    with caplog.at_level(logging.WARNING, "portable"):
        examples = to_examples(tokenizer, long_and_short(40), seq_len=10, overlong=overlong)
    assert [len(example) for example in examples] == lengths
    assert said in caplog.text


def test_what_fits_exactly_is_kept(
    tokenizer: Tokenizer, conversations: list[Conversation], caplog: pytest.LogCaptureFixture
):
    length = len(to_example(tokenizer, conversations[0]))
    assert len(to_examples(tokenizer, conversations[:1], seq_len=length, overlong=Overlong.drop)) == 1
    assert caplog.text == ""


def test_nothing_left_is_an_error(tokenizer: Tokenizer):
    with pytest.raises(DataError, match=r"none of 3 conversations fits sft\.seq_len=2"):
        to_examples(tokenizer, long_and_short(40), seq_len=2, overlong=Overlong.drop)
