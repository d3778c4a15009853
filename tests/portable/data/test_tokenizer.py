"""The tokenizer: lossless, the same every time, and the same for transformers."""

import hashlib
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from portable.core.errors import ConfigError, DataError
from portable.core.record import Message
from portable.data.config import TokenizerConfig
from portable.data.tokenizer import train_tokenizer
from portable.model.chat import CHAT_TEMPLATE, SPECIAL_TOKENS, render_chat
from portable.model.tokenizer import Tokenizer

TEXTS = [
    f"The {word} of number {n} returns the {word}." for n, word in enumerate(["map", "list", "tuple"] * 9)
]
AWKWARD = [
    "it's 1234\n\n  x = f(y)\t# naïve 你好 🎉",
    "",
    " ",
    "\r\n\r\n",
    "e\u0301 \u00a0 ①",
    "<|end|> is text",
]


def _digest(tokenizer):
    return hashlib.sha256(tokenizer.inner.to_str().encode()).hexdigest()


@pytest.mark.parametrize("text", AWKWARD)
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text), skip_special=False) == text


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=60))
def test_any_unicode_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text), skip_special=False) == text


def test_special_tokens_have_the_first_ids_and_their_roles(tokenizer):
    assert [tokenizer.token_id(token) for token in SPECIAL_TOKENS] == list(range(len(SPECIAL_TOKENS)))
    assert tokenizer.decode([tokenizer.eos_token_id], skip_special=False) == "<|end|>"
    assert tokenizer.decode([tokenizer.pad_token_id], skip_special=False) == "<|pad|>"
    assert tokenizer.decode([tokenizer.end_of_text_id], skip_special=False) == "<|endoftext|>"
    assert tokenizer.chat_template == CHAT_TEMPLATE


def test_special_tokens_in_the_text_stay_plain(tokenizer):
    assert not tokenizer.special_ids.intersection(tokenizer.encode("a <|endoftext|> b"))


def test_digits_stand_alone():
    tokenizer = train_tokenizer(["12345 12345 2024 2024 "] * 50 + TEXTS, TokenizerConfig(vocab_size=280))
    assert [tokenizer.decode([index]) for index in tokenizer.encode("12345")] == list("12345")


def test_training_is_the_same_in_any_order():
    config = TokenizerConfig(vocab_size=290)
    assert _digest(train_tokenizer(TEXTS, config)) == _digest(train_tokenizer(TEXTS[::-1], config))


def test_training_is_the_same_on_any_number_of_threads():
    code = (
        "import hashlib\n"
        "from portable.data.config import TokenizerConfig\n"
        "from portable.data.tokenizer import train_tokenizer\n"
        f"texts = {TEXTS!r}\n"
        "tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=290))\n"
        "print(hashlib.sha256(tokenizer.inner.to_str().encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "RAYON_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "3")
    }
    assert digests == {_digest(train_tokenizer(TEXTS, TokenizerConfig(vocab_size=290))) + "\n"}


def test_more_tokens_than_the_data_allows_says_how_many_it_does():
    with pytest.raises(ConfigError, match="more than the data allows") as caught:
        train_tokenizer(TEXTS, TokenizerConfig(vocab_size=5000))
    allowed = int(str(caught.value).partition("vocab_size=5000")[2].partition("vocab_size=")[2].split()[0])
    assert train_tokenizer(TEXTS, TokenizerConfig(vocab_size=allowed)).vocab_size == allowed
    with pytest.raises(ConfigError, match=f"vocab_size={allowed} or less"):
        train_tokenizer(TEXTS, TokenizerConfig(vocab_size=allowed + 1))


def test_too_few_tokens_and_no_text_are_refused():
    with pytest.raises(ConfigError, match="use at least 263"):
        train_tokenizer(TEXTS, TokenizerConfig(vocab_size=262))
    with pytest.raises(DataError, match="no text to learn a tokenizer from"):
        train_tokenizer([], TokenizerConfig(vocab_size=300))


def test_transformers_reads_the_folder_and_agrees(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer.load(tmp_path)
    for text in AWKWARD[:-1]:
        assert theirs(text, add_special_tokens=False).input_ids == ours.encode(text)
    assert (theirs.eos_token_id, theirs.pad_token_id) == (ours.eos_token_id, ours.pad_token_id)
    assert (len(theirs), theirs.model_max_length) == (ours.vocab_size, 512)


def test_transformers_renders_chats_alike(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    turns = [Message("system", "Be brief."), Message("user", "2+2="), Message("assistant", "04")]
    theirs = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
        [{"role": turn.role, "content": turn.content} for turn in turns], tokenize=True
    )
    assert theirs["input_ids"] == list(render_chat(tokenizer, turns).ids)
