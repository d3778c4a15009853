"""Answers in OpenAI's shapes."""

import pytest

from portable.engine.request import Progress, TokenStep
from portable.engine.server.reply import Choice, Reply, error_body
from portable.model.tokenizer import Tokenizer

TEXTS = ["the", " fox", ""]


@pytest.fixture
def choice(tokenizer: Tokenizer) -> Choice:
    """ "the fox" and the end of the turn, each with two alternatives."""
    choice = Choice(0)
    ids = [*tokenizer.encode("the")[:1], *tokenizer.encode(" fox")[:1], tokenizer.eos_token_id]
    for index, (token, text) in enumerate(zip(ids, TEXTS, strict=True)):
        step = TokenStep(token, -0.5 * (index + 1), ((token, -0.5 * (index + 1)), (0, -4.0)))
        choice.take(Progress(0, step, text, "stop" if index == 2 else None))
    return choice


def reply(tokenizer: Tokenizer, *, is_chat: bool, log_probs: bool = True, usage: bool = False) -> Reply:
    return Reply(
        tokenizer=tokenizer,
        model="m",
        is_chat=is_chat,
        wants_log_probs=log_probs,
        include_usage=usage,
        num_prompt_tokens=5,
    )


def test_a_choice_gathers_text_offsets_and_end(choice: Choice) -> None:
    assert (choice.text, choice.offsets, choice.finish_reason) == ("the fox", [0, 3, 7], "stop")


def test_completion_shape(tokenizer: Tokenizer, choice: Choice) -> None:
    answer = reply(tokenizer, is_chat=False).whole([choice])
    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-")
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    entry = answer["choices"][0]
    assert (entry["text"], entry["finish_reason"], entry["index"]) == ("the fox", "stop", 0)
    assert entry["logprobs"]["tokens"] == ["the", " fox", "<|end|>"]
    assert entry["logprobs"]["token_logprobs"] == [-0.5, -1.0, -1.5]
    assert entry["logprobs"]["text_offset"] == [0, 3, 7]
    assert entry["logprobs"]["top_logprobs"][1] == {" fox": -1.0, tokenizer.decode([0]): -4.0}


def test_chat_shape(tokenizer: Tokenizer, choice: Choice) -> None:
    answer = reply(tokenizer, is_chat=True).whole([choice])
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    entry = answer["choices"][0]
    assert entry["message"] == {"role": "assistant", "content": "the fox", "refusal": None}
    content = entry["logprobs"]["content"]
    assert content[1]["token"] == " fox"
    assert content[1]["bytes"] == list(b" fox")
    assert [item["logprob"] for item in content[1]["top_logprobs"]] == [-1.0, -4.0]


@pytest.mark.parametrize("is_chat", [False, True])
def test_log_probs_are_null_unless_wanted(tokenizer: Tokenizer, choice: Choice, is_chat: bool) -> None:
    quiet = reply(tokenizer, is_chat=is_chat, log_probs=False)
    assert quiet.whole([choice])["choices"][0]["logprobs"] is None


def test_chunks_of_a_stream_share_id_and_time(tokenizer: Tokenizer, choice: Choice) -> None:
    writer = reply(tokenizer, is_chat=True, usage=True)
    news = Progress(0, choice.steps[-1], "", "stop")
    chunks = [writer.opening(choice), writer.part(choice, news), writer.closing([choice])]
    assert len({(chunk["id"], chunk["created"], chunk["object"]) for chunk in chunks}) == 1
    assert chunks[0]["object"] == "chat.completion.chunk"
    assert [chunk["usage"] for chunk in chunks[:2]] == [None, None]
    assert chunks[2]["usage"]["completion_tokens"] == 3
    assert chunks[2]["choices"] == []


def test_opening_and_parts_of_a_chat(tokenizer: Tokenizer, choice: Choice) -> None:
    writer = reply(tokenizer, is_chat=True, log_probs=False)
    assert writer.opening(choice)["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    part = writer.part(choice, Progress(0, choice.steps[0], "the", None))
    assert part["choices"][0]["delta"] == {"content": "the"}
    assert "usage" not in part
    last = writer.part(choice, Progress(0, choice.steps[2], "", "stop"))["choices"][0]
    assert (last["delta"], last["finish_reason"]) == ({}, "stop")


def test_parts_of_a_completion_carry_their_own_log_prob(tokenizer: Tokenizer, choice: Choice) -> None:
    part = reply(tokenizer, is_chat=False).part(choice, Progress(0, choice.steps[2], "", "stop"))
    entry = part["choices"][0]
    assert entry["text"] == ""
    assert entry["logprobs"]["tokens"] == ["<|end|>"]
    assert entry["logprobs"]["text_offset"] == [7]


def test_usage_counts_a_prompt_once_and_all_answers(tokenizer: Tokenizer, choice: Choice) -> None:
    usage = reply(tokenizer, is_chat=False).usage([choice, choice])
    assert usage == {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}


def test_error_shape() -> None:
    assert error_body("no", "invalid_request_error", param="n") == {
        "error": {"message": "no", "type": "invalid_request_error", "param": "n", "code": None}
    }
