"""What is asked of an engine, and what it answers, is compared with the model itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from portable.core.errors import DataError
from portable.engine.build import build_engine
from portable.engine.config import EngineConfig, HfEngineConfig, NativeEngineConfig
from portable.engine.protocol import Engine
from portable.engine.session import open_session
from portable.model.decoder import Decoder
from portable.model.init import new_model
from portable.model.weights import load_model, save_model
from portable.testing.engine.tiny import ask, make_model_config, make_tokenizer, plain_log_probs
from portable.testing.runtime import make_runtime

CONFIGS: dict[str, EngineConfig] = {
    "native": NativeEngineConfig(max_batch_size=3),
    "hf": HfEngineConfig(max_batch_size=3),
}
PROMPTS = [[1, 2, 3], [40], [7] * 9, [100, 3, 250, 8]]


@pytest.fixture(scope="session")
def model_dir(backend_name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    tokenizer = make_tokenizer()
    config = make_model_config(tokenizer.vocab_size)
    save_model(new_model(config, make_runtime(backend_name).kernels, seed=3), config, tokenizer, path)
    return path


@pytest.fixture(scope="session", params=CONFIGS)
def engine(request: pytest.FixtureRequest, backend_name: str, model_dir: Path) -> Engine:
    return build_engine(model_dir, CONFIGS[request.param], make_runtime(backend_name))


@pytest.fixture(scope="session")
def model(backend_name: str, model_dir: Path) -> Decoder:
    runtime = make_runtime(backend_name)
    return load_model(model_dir, runtime.kernels, device=runtime.torch_device)[0]


def test_it_names_its_tokenizer_and_its_context(engine: Engine) -> None:
    assert engine.max_seq_len == 64
    assert engine.tokenizer.decode(engine.tokenizer.encode("the fox")) == "the fox"


def test_answers_come_in_the_order_of_requests_and_no_longer_than_asked(engine: Engine) -> None:
    sizes = [5, 1, 7, 3]
    asked = [ask(prompt, size, seed=0) for prompt, size in zip(PROMPTS, sizes, strict=True)]
    completions = engine.generate(asked)
    assert [len(completion.steps) for completion in completions] == sizes
    assert all(completion.finish_reason == "length" for completion in completions)


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
def test_log_probs_are_those_of_the_model_at_that_temperature(
    engine: Engine, model: Decoder, temperature: float
) -> None:
    asked = [ask(prompt, 6, seed=1, temperature=temperature) for prompt in PROMPTS]
    for request, completion in zip(asked, engine.generate(asked), strict=True):
        expected = plain_log_probs(model, request.prompt_ids, completion.token_ids, temperature or 1.0)
        assert completion.log_probs == pytest.approx(expected, abs=2e-5)


def test_greedy_takes_the_likeliest_token_every_time(engine: Engine) -> None:
    request = ask(PROMPTS[0], 8, temperature=0, num_top_log_probs=1)
    assert all(step.top[0][0] == step.token_id for step in engine.generate([request])[0].steps)


def test_a_seed_fixes_the_tokens_whatever_the_company(engine: Engine) -> None:
    asked = [ask(prompt, 8, seed=index) for index, prompt in enumerate(PROMPTS)]
    together = engine.generate(asked)
    alone = [engine.generate([request])[0] for request in asked]
    assert [item.token_ids for item in together] == [item.token_ids for item in alone]
    other = engine.generate([ask(PROMPTS[0], 8, seed=99)])[0]
    assert other.token_ids != together[0].token_ids


def test_stops_end_it(engine: Engine) -> None:
    free = engine.generate([ask(PROMPTS[2], 12, seed=4)])[0]
    token = free.token_ids[4]
    by_token = engine.generate([ask(PROMPTS[2], 12, seed=4, stop_token_ids=(token,))])[0]
    assert by_token.token_ids == free.token_ids[: free.token_ids.index(token) + 1]
    stop = free.text[3:5]
    by_text = engine.generate([ask(PROMPTS[2], 12, seed=4, stop=(stop,))])[0]
    assert by_text.text == free.text[: free.text.index(stop)]
    assert (by_token.finish_reason, by_text.finish_reason) == ("stop", "stop")


def test_stream_and_session_tell_the_same_as_generate(engine: Engine) -> None:
    request = ask(PROMPTS[3], 9, seed=2)
    whole = engine.generate([request])[0]
    assert [step.token_id for step in engine.stream(request)] == list(whole.token_ids)
    session = open_session(engine, 2)
    session.add(7, request)
    news = []
    while session.num_pending:
        news += session.step()
    assert {item.key for item in news} == {7}
    assert "".join(item.text for item in news) == whole.text
    assert news[-1].finish_reason == whole.finish_reason


def test_what_does_not_fit_is_refused(engine: Engine) -> None:
    for bad in ([], [1] * 64, [100_000]):
        with pytest.raises(DataError):
            engine.generate([ask(bad)])
