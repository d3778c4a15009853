import threading

import pytest
from transformers import AutoTokenizer

from portable.core.errors import ArtefactError
from portable.model.tokenizer import Tokenizer

TEXTS = ["def f(x):\n    return x", "naïve café 你好", "", " lead and trail "]


def test_round_trip_through_ids_is_exact(tokenizer):
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_spellings_stay_text_unless_allowed(tokenizer):
    ids = tokenizer.encode("a<|end|>b")
    assert not tokenizer.special_ids.intersection(ids)
    assert tokenizer.decode(ids) == "a<|end|>b"
    end = tokenizer.token_id("<|end|>")
    assert tokenizer.encode("a<|end|>b", allow_special=True) == [
        *tokenizer.encode("a"),
        end,
        *tokenizer.encode("b"),
    ]
    # The switch does not stick.
    assert tokenizer.encode("<|end|>") != [end]


def test_batch_equals_one_by_one_and_ignores_specials(tokenizer):
    texts = [*TEXTS, "x<|pad|>"]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_decode_hides_specials_only_when_told(tokenizer):
    ids = [*tokenizer.encode("hi"), tokenizer.eos_token_id]
    assert tokenizer.decode(ids) == "hi"
    assert tokenizer.decode(ids, skip_special=False) == "hi<|end|>"


def test_incomplete_utf8_becomes_the_replacement_character(tokenizer):
    assert tokenizer.decode(tokenizer.encode("é")[:1]) == "\ufffd"


def test_ids_of_roles(tokenizer):
    end, text = tokenizer.token_id("<|end|>"), tokenizer.token_id("<|endoftext|>")
    assert (tokenizer.eos_token_id, tokenizer.end_of_text_id) == (end, text)
    assert tokenizer.stop_token_ids == tuple(sorted((end, text)))
    assert tokenizer.pad_token_id == tokenizer.token_id("<|pad|>")
    assert tokenizer.bos_token_id is None
    assert tokenizer.token_id("no such token") is None
    assert tokenizer.vocab_size == 262


def test_missing_roles_fall_back_on_eos_but_eos_itself_is_needed(tokenizer):
    bare = Tokenizer(tokenizer.inner, {"eos_token": {"content": "<|end|>"}, "bos_token": "<|endoftext|>"})
    assert bare.pad_token_id == bare.end_of_text_id == bare.eos_token_id == tokenizer.eos_token_id
    assert bare.stop_token_ids == (tokenizer.eos_token_id,)
    assert bare.bos_token_id == tokenizer.end_of_text_id
    assert bare.chat_template is None
    with pytest.raises(ArtefactError, match=r"no eos_token.*<nope>"):
        Tokenizer(tokenizer.inner, {"eos_token": "<nope>"})


def test_folder_loads_here_and_in_transformers(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again, theirs = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert again.encode(text) == tokenizer.encode(text)
        assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)
    assert theirs.eos_token_id == again.eos_token_id
    assert again.chat_template == tokenizer.chat_template


def test_saving_twice_writes_equal_bytes(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "a")
    Tokenizer.load(tmp_path / "a").save(tmp_path / "b")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_template_file_of_newer_folders_wins(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert Tokenizer.load(tmp_path).chat_template == "{{ messages[0]['content'] }}"


@pytest.mark.parametrize("lost", ["tokenizer.json", "tokenizer_config.json"])
def test_missing_file_is_named(tokenizer, tmp_path, lost):
    tokenizer.save(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(ArtefactError, match=lost):
        Tokenizer.load(tmp_path)


def test_threads_do_not_switch_each_others_specials(tokenizer):
    plain, special = tokenizer.encode("<|end|>"), tokenizer.encode("<|end|>", allow_special=True)
    wrong = []

    def work(allow: bool, expected: list[int]) -> None:
        for _ in range(300):
            if tokenizer.encode("<|end|>", allow_special=allow) != expected:
                wrong.append(allow)

    threads = [threading.Thread(target=work, args=pair) for pair in [(False, plain), (True, special)] * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
