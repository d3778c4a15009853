"""The HTTP application, driven by OpenAI's own client over a loopback port."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import openai
import pytest
import uvicorn

from portable.core.errors import PortableError
from portable.core.record import Message
from portable.engine.native.engine import NativeEngine
from portable.engine.protocol import Engine
from portable.engine.serve import bind
from portable.engine.server.app import create_app
from portable.engine.server.token_text import token_label
from portable.model.chat import render_prompt
from portable.model.tokenizer import Tokenizer
from tests.portable.engine.support import ScriptedEngine, ask, plain_log_probs

USER = [{"role": "user", "content": "the quick fox"}]


@contextmanager
def serving(engine: Engine, api_key: str | None = None) -> Iterator[int]:
    """Serve ``engine`` as "tiny" on a free port, in a thread, for as long as the block lasts."""
    with bind("127.0.0.1", 0) as bound:
        app = create_app(engine, "tiny", 8, api_key)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        try:
            yield bound.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(timeout=60)
            assert not thread.is_alive()


def client_at(port: int, key: str = "any") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def port(engine: NativeEngine) -> Iterator[int]:
    with serving(engine) as number:
        yield number


@pytest.fixture(scope="module")
def client(port: int) -> openai.OpenAI:
    return client_at(port)


def get(port: int, path: str, method: str = "GET", body: str = "") -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    return answer.status, content


def test_health(port: int) -> None:
    assert get(port, "/health") == (200, {"status": "ok"})


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").object == "model"


def test_completion_equals_the_engines_own(client: openai.OpenAI, engine: NativeEngine) -> None:
    prompt = engine.tokenizer.encode("the quick")
    expected = engine.generate([ask(prompt, 12, temperature=0)])[0]
    answer = client.completions.create(model="tiny", prompt="the quick", max_tokens=12, temperature=0)
    assert answer.choices[0].text == expected.text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompt), 12)
    by_ids = client.completions.create(model="tiny", prompt=prompt, max_tokens=12, temperature=0)
    assert by_ids.choices[0].text == expected.text


def test_chat_renders_the_template(client: openai.OpenAI, engine: NativeEngine) -> None:
    prompt = render_prompt(engine.tokenizer, [Message("user", "the quick fox")])
    stops = engine.tokenizer.stop_token_ids
    expected = engine.generate([ask(prompt, 9, temperature=0, stop_token_ids=stops)])[0]
    answer = client.chat.completions.create(
        model="tiny", messages=USER, max_completion_tokens=9, temperature=0
    )
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(prompt)


def test_a_seed_repeats_and_another_differs(client: openai.OpenAI) -> None:
    def text(seed: int | None) -> str:
        return client.completions.create(model="tiny", prompt="dog", max_tokens=12, seed=seed).choices[0].text

    assert text(1) == text(1)
    assert len({text(1), text(2), text(None), text(None)}) == 4


def test_several_choices_and_prompts(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt=["dog", "fox"], n=2, seed=3, max_tokens=6)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert len({choice.text for choice in answer.choices}) == 4
    single = client.completions.create(model="tiny", prompt="fox", n=2, seed=3, max_tokens=6)
    assert [choice.text for choice in single.choices] == [choice.text for choice in answer.choices[2:]]


@pytest.mark.parametrize("as_list", [False, True])
def test_stop_string_cuts_the_text(client: openai.OpenAI, as_list: bool) -> None:
    def create(**extra: Any) -> Any:
        return client.completions.create(model="tiny", prompt="dog", max_tokens=20, seed=8, **extra).choices[
            0
        ]

    text = create().text
    stop = text[4:6]
    cut = create(stop=[stop, "never seen"] if as_list else stop)
    assert (cut.text, cut.finish_reason) == (text[: text.index(stop)], "stop")


def test_completion_log_probs(client: openai.OpenAI, engine: NativeEngine) -> None:
    prompt = engine.tokenizer.encode("the quick")
    settings = {"seed": 5, "temperature": 0.8}
    expected = engine.generate([ask(prompt, 5, num_top_log_probs=3, **settings)])[0]
    choice = client.completions.create(
        model="tiny", prompt="the quick", max_tokens=5, logprobs=3, **settings
    ).choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.token_logprobs == pytest.approx(expected.log_probs, abs=1e-5)
    plain = plain_log_probs(engine.model, prompt, expected.token_ids, 0.8)
    assert choice.logprobs.token_logprobs == pytest.approx(plain, abs=1e-5)
    assert choice.logprobs.tokens == [token_label(engine.tokenizer, index) for index in expected.token_ids]
    assert choice.logprobs.top_logprobs is not None
    assert [len(top) for top in choice.logprobs.top_logprobs] == [3] * 5


def test_chat_log_probs(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(
        model="tiny", messages=USER, max_tokens=4, temperature=0, logprobs=True, top_logprobs=2
    ).choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert len(choice.logprobs.content) == 4
    for entry in choice.logprobs.content:  # greedy: the drawn token is the best alternative
        assert entry.logprob == pytest.approx(entry.top_logprobs[0].logprob, abs=1e-6)
        assert entry.bytes == entry.top_logprobs[0].bytes


def test_streamed_completion_adds_up(client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {"model": "tiny", "prompt": "dog", "max_tokens": 15, "seed": 8}
    whole = client.completions.create(**settings)
    chunks = list(client.completions.create(**settings, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"
    assert len(chunks) > 2


def test_streamed_chat_opens_with_the_role_and_ends_with_usage(client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {"model": "tiny", "messages": USER, "max_tokens": 10, "seed": 2}
    whole = client.chat.completions.create(**settings)
    chunks = list(
        client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    deltas = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(deltas) == whole.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_streamed_choices_are_told_apart(client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {"model": "tiny", "prompt": "dog", "n": 3, "max_tokens": 6, "seed": 1}
    whole = client.completions.create(**settings)
    texts = ["", "", ""]
    for chunk in client.completions.create(**settings, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in whole.choices]


def test_concurrent_clients_share_batches_and_get_their_own_answers(
    client: openai.OpenAI, engine: NativeEngine
) -> None:
    def call(seed: int) -> str:
        return client.completions.create(model="tiny", prompt="dog", max_tokens=10, seed=seed).choices[0].text

    prompt, stops = engine.tokenizer.encode("dog"), engine.tokenizer.stop_token_ids
    expected = engine.generate([ask(prompt, 10, seed=seed, stop_token_ids=stops) for seed in range(12)])
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(call, range(12))) == [completion.text for completion in expected]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"echo": True}, "echo"),
        ({"temperature": -1}, "temperature"),
        ({"logprobs": 99}, "logprobs"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [100_000]}, "prompt"),
        ({"extra_body": {"prompt": {"a": 1}}}, "prompt"),
        ({"extra_body": {"stop": 5}}, "stop"),
        ({"extra_body": {"surprise": 1}}, "surprise"),
    ],
)
def test_a_bad_field_is_a_400_that_names_it(
    client: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": "tiny", "prompt": "a", **fields})
    body = caught.value.body
    assert isinstance(body, dict)
    assert (body["type"], body["param"]) == ("invalid_request_error", param)
    assert len(body["message"]) > 10


def test_an_unsupported_field_of_a_chat_is_a_400(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="tools: is not supported here"):
        client.chat.completions.create(model="tiny", messages=USER, tools=[])


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_does_not_fit_is_a_400_even_when_streaming(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(
        openai.BadRequestError, match="has 90 tokens and the model reads at most 64"
    ) as caught:
        client.completions.create(model="tiny", prompt=[5] * 90, stream=stream)
    assert caught.value.code == "context_length_exceeded"


def test_an_unknown_model_is_a_404_with_the_one_there_is(client: openai.OpenAI) -> None:
    with pytest.raises(
        openai.NotFoundError, match=r"'tinny' is not served here. Did you mean 'tiny'"
    ) as caught:
        client.completions.create(model="tinny", prompt="a")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_an_unknown_path_and_broken_json_have_openais_form(port: int) -> None:
    status, body = get(port, "/v1/images")
    assert (status, body["error"]["type"]) == (404, "invalid_request_error")
    status, body = get(port, "/v1/completions", "POST", "{not json")
    assert (status, body["error"]["message"]) == (400, "the body is no valid JSON")


def test_a_key_is_asked_for_where_one_is_set(engine: NativeEngine) -> None:
    with serving(engine, api_key="secret") as port:
        assert client_at(port, "secret").models.list().data[0].id == "tiny"
        with pytest.raises(openai.AuthenticationError, match="wrong or missing API key"):
            client_at(port, "guess").models.list()
        with pytest.raises(openai.AuthenticationError):
            client_at(port, "guess").completions.create(model="tiny", prompt="a")
        assert get(port, "/health")[0] == 200


def test_an_engine_without_continuous_batching_serves_too(tokenizer: Tokenizer) -> None:
    with serving(ScriptedEngine(tokenizer, "the lazy dog")) as port:
        client = client_at(port)
        whole = client.chat.completions.create(model="tiny", messages=USER)
        assert whole.choices[0].message.content == "the lazy dog"
        assert whole.choices[0].finish_reason == "stop"
        chunks = client.completions.create(model="tiny", prompt="a", stream=True, stop="dog")
        assert "".join(chunk.choices[0].text for chunk in chunks) == "the lazy "


class SlowSession:
    """One endless request; remembers what was cancelled."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.cancelled = threading.Event()

    @property
    def num_pending(self) -> int:
        return self.inner.num_pending

    def add(self, key: int, request: Any) -> None:
        self.inner.add(key, request)

    def cancel(self, key: int) -> None:
        self.inner.cancel(key)
        self.cancelled.set()

    def step(self) -> list[Any]:
        time.sleep(0.05)
        return self.inner.step()


class SlowEngine:
    """The native engine, slow enough to hang up on."""

    def __init__(self, engine: NativeEngine) -> None:
        self.engine = engine
        self.opened: list[SlowSession] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def session(self) -> SlowSession:
        self.opened.append(SlowSession(self.engine.session()))
        return self.opened[-1]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_frees_its_slot(engine: NativeEngine, stream: bool) -> None:
    slow = SlowEngine(engine)
    with serving(slow) as port:  # pyright: ignore[reportArgumentType]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        body = {"model": "tiny", "prompt": "dog", "max_tokens": 60, "seed": 1, "stream": stream}
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        if stream:
            connection.getresponse().readline()
        else:
            while not (slow.opened and slow.opened[0].num_pending):  # the server opens it when it pleases
                time.sleep(0.01)
        assert connection.sock is not None or stream
        connection.close()
        assert slow.opened[0].cancelled.wait(timeout=30)
        while slow.opened[0].num_pending:
            time.sleep(0.01)


class FailingEngine(ScriptedEngine):
    """Breaks on every call, as a diverged model does."""

    def generate(self, requests: Any) -> Any:
        raise PortableError("the model's logits are not finite")


def test_a_failing_engine_is_a_500_and_the_server_lives(tokenizer: Tokenizer) -> None:
    with serving(FailingEngine(tokenizer, "x")) as port:
        with pytest.raises(openai.InternalServerError, match="logits are not finite"):
            client_at(port).completions.create(model="tiny", prompt="a")
        assert get(port, "/health")[0] == 200


class BrokenEngine(ScriptedEngine):
    """Has a bug."""

    def generate(self, requests: Any) -> Any:
        raise ZeroDivisionError


def test_a_dead_engine_shows_in_health(tokenizer: Tokenizer) -> None:
    with serving(BrokenEngine(tokenizer, "x")) as port:
        with pytest.raises(openai.InternalServerError, match="unexpected error"):
            client_at(port).completions.create(model="tiny", prompt="a")
        assert get(port, "/health") == (503, {"status": "stopped"})


class FailsLater(SlowSession):
    """Gives one token, then breaks."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.num_steps = 0

    def step(self) -> list[Any]:
        self.num_steps += 1
        if self.num_steps > 1:
            raise PortableError("out of memory")
        return self.inner.step()


class FailsLaterEngine(SlowEngine):
    def session(self) -> SlowSession:
        self.opened.append(FailsLater(self.engine.session()))
        return self.opened[-1]


def test_an_error_in_the_middle_of_a_stream_travels_as_an_event(engine: NativeEngine) -> None:
    with serving(FailsLaterEngine(engine)) as port:  # pyright: ignore[reportArgumentType]
        stream = client_at(port).completions.create(
            model="tiny", prompt="dog", max_tokens=9, stream=True, seed=1
        )
        with pytest.raises(openai.APIError, match="out of memory"):
            list(stream)
        assert get(port, "/health")[0] == 200
