"""Bodies: what is taken, what is refused, what becomes of it."""

from typing import Any

import pytest
from pydantic import ValidationError

from portable.core.errors import DataError
from portable.core.record import Message
from portable.engine.server.body import ChatBody, CompletionBody
from portable.model.chat import render_prompt
from portable.model.tokenizer import Tokenizer

TURNS = [{"role": "user", "content": "hello"}]


def completion(**fields: Any) -> CompletionBody:
    return CompletionBody.model_validate({"model": "m", "prompt": "the fox", **fields})


def chat(**fields: Any) -> ChatBody:
    return ChatBody.model_validate({"model": "m", "messages": TURNS, **fields})


def test_defaults_are_openais(tokenizer: Tokenizer) -> None:
    request = completion().requests(tokenizer, 64)[0]
    sampling = request.sampling
    assert (sampling.max_new_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (
        16,
        1.0,
        1.0,
        0,
    )
    assert request.stop_token_ids == tokenizer.stop_token_ids
    assert chat().requests(tokenizer, 64)[0].sampling.max_new_tokens == 64


def test_settings_reach_the_request(tokenizer: Tokenizer) -> None:
    body = completion(max_tokens=3, temperature=0, top_p=0.5, top_k=7, seed=9, stop=["a", "b"], logprobs=2)
    request = body.requests(tokenizer, 64)[0]
    sampling = request.sampling
    assert (sampling.max_new_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (3, 0, 0.5, 7)
    assert (sampling.seed, request.stop, request.num_top_log_probs) == (9, ("a", "b"), 2)


def test_one_stop_may_stand_without_a_list(tokenizer: Tokenizer) -> None:
    assert completion(stop="x").requests(tokenizer, 64)[0].stop == ("x",)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("the fox", ["the fox"]),
        (["the fox", "dog"], ["the fox", "dog"]),
        ([5, 6, 7], [[5, 6, 7]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
    ],
)
def test_every_form_of_prompt(tokenizer: Tokenizer, prompt: Any, expected: list[Any]) -> None:
    ids = [tokenizer.encode(item) if isinstance(item, str) else item for item in expected]
    requests = completion(prompt=prompt).requests(tokenizer, 64)
    assert [list(request.prompt_ids) for request in requests] == ids


def test_special_tokens_typed_into_a_prompt_stay_text(tokenizer: Tokenizer) -> None:
    ids = completion(prompt="<|end|>").requests(tokenizer, 64)[0].prompt_ids
    assert tokenizer.eos_token_id not in ids


@pytest.mark.parametrize("prompt", ["", []])
def test_no_prompt_is_refused(tokenizer: Tokenizer, prompt: Any) -> None:
    with pytest.raises(DataError, match="prompt is empty"):
        completion(prompt=prompt).requests(tokenizer, 64)


def test_choices_come_prompt_by_prompt_with_seeds_of_their_own(tokenizer: Tokenizer) -> None:
    requests = completion(prompt=["the", "dog"], n=3, seed=4).requests(tokenizer, 64)
    assert [request.prompt_ids for request in requests[:3]] == [requests[0].prompt_ids] * 3
    assert requests[3].prompt_ids != requests[0].prompt_ids
    seeds = [request.sampling.seed for request in requests]
    assert seeds[0] == 4
    assert len(set(seeds[:3])) == 3
    assert seeds[:3] == seeds[3:]


def test_without_a_seed_two_calls_differ(tokenizer: Tokenizer) -> None:
    first, second = (completion().requests(tokenizer, 64)[0].sampling.seed for _ in range(2))
    assert first != second


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1),
        ("top_p", 0),
        ("top_p", 1.1),
        ("n", 0),
        ("n", 1000),
        ("max_tokens", 0),
        ("stop", [""]),
        ("stop", ["x"] * 17),
        ("logprobs", 21),
        ("echo", True),
        ("suffix", "end"),
        ("best_of", 3),
        ("frequency_penalty", 0.5),
        ("presence_penalty", -0.5),
        ("logit_bias", {"5": 1.0}),
        ("stream_options", {"include_usage": True}),
        ("surprise", 1),
    ],
)
def test_what_cannot_be_honoured_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        completion(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("echo", False),
        ("best_of", 1),
        ("frequency_penalty", 0),
        ("logit_bias", {}),
        ("user", "somebody"),
        ("suffix", None),
        ("temperature", None),
        ("n", None),
        ("stream", None),
    ],
)
def test_what_asks_for_nothing_is_taken(tokenizer: Tokenizer, field: str, value: Any) -> None:
    assert len(completion(**{field: value}).requests(tokenizer, 64)) == 1


def test_log_probs_of_the_two_endpoints() -> None:
    assert not completion().wants_log_probs
    assert completion(logprobs=0).wants_log_probs
    assert not chat(logprobs=False).wants_log_probs
    assert chat(logprobs=True).wants_log_probs


def test_top_log_probs_need_log_probs(tokenizer: Tokenizer) -> None:
    assert chat(logprobs=True, top_logprobs=3).requests(tokenizer, 64)[0].num_top_log_probs == 3
    with pytest.raises(ValidationError, match="needs logprobs=true"):
        chat(top_logprobs=3)


def test_both_names_of_the_limit(tokenizer: Tokenizer) -> None:
    assert chat(max_tokens=5).requests(tokenizer, 64)[0].sampling.max_new_tokens == 5
    both = chat(max_tokens=5, max_completion_tokens=7)
    assert both.requests(tokenizer, 64)[0].sampling.max_new_tokens == 7


def test_messages_are_rendered_by_the_models_template(tokenizer: Tokenizer) -> None:
    messages = [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c", "refusal": None},
        {"role": "user", "content": "d", "name": "bob"},
    ]
    turns = [
        Message("system", "be kind"),
        Message("user", "ab"),
        Message("assistant", "c"),
        Message("user", "d"),
    ]
    request = chat(messages=messages).requests(tokenizer, 64)[0]
    assert list(request.prompt_ids) == render_prompt(tokenizer, turns)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "tool", "content": "x"}],
        [{"role": "user"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
    ],
)
def test_messages_that_are_not_understood_are_refused(messages: list[Any]) -> None:
    with pytest.raises(ValidationError):
        chat(messages=messages)


def test_only_plain_text_is_promised() -> None:
    assert chat(response_format={"type": "text"}).response_format is not None
    with pytest.raises(ValidationError):
        chat(response_format={"type": "json_object"})


def test_usage_of_a_stream_is_asked_for() -> None:
    assert chat(stream=True, stream_options={"include_usage": True}).include_usage
    assert not chat(stream=True).include_usage
