"""The transformers engine means the same as the native one, token by token."""

from pathlib import Path

import pytest

from portable.core.errors import ArtefactError, ConfigError, DataError
from portable.engine.config import HfEngineConfig, NativeEngineConfig
from portable.engine.hf.engine import HfEngine, build
from portable.engine.native.engine import NativeEngine
from portable.engine.request import Completion, Request
from portable.parallel.runtime import Runtime
from tests.portable.engine.support import ask


@pytest.fixture(scope="module")
def hf(model_dir: Path, runtime: Runtime) -> HfEngine:
    return build(model_dir, HfEngineConfig(max_batch_size=3), runtime)


def assert_same(first: list[Completion], second: list[Completion]) -> None:
    for one, two in zip(first, second, strict=True):
        assert one.token_ids == two.token_ids
        assert (one.text, one.finish_reason) == (two.text, two.finish_reason)
        assert one.log_probs == pytest.approx(two.log_probs, abs=2e-5)


def mixed_requests() -> list[Request]:
    """Greedy, sampled, cut, with stops, of several lengths: all in one batch."""
    return [
        ask([1, 2, 3], 5, temperature=0),
        ask([9], 9, seed=1),
        ask([4] * 11, 3, seed=2, temperature=1.5, top_k=9, top_p=0.9),
        ask([8, 7], 12, seed=3, stop=("o",)),
        ask([20, 21, 22], 8, seed=4, stop_token_ids=tuple(range(0, 300, 3))),
    ]


def test_all_kinds_of_requests_in_one_batch_equal_the_native_engine(
    hf: HfEngine, engine: NativeEngine
) -> None:
    assert_same(hf.generate(mixed_requests()), engine.generate(mixed_requests()))


def test_alternatives_equal_the_native_engine(hf: HfEngine, engine: NativeEngine) -> None:
    request = ask([1, 2], 3, seed=0, num_top_log_probs=3)
    theirs, ours = (maker.generate([request])[0].steps for maker in (hf, engine))
    assert [[token for token, _ in step.top] for step in theirs] == [
        [t for t, _ in step.top] for step in ours
    ]


def test_stream_gives_the_tokens_of_generate(hf: HfEngine) -> None:
    request = ask([1, 2, 3], 6, seed=5)
    assert list(hf.stream(request)) == list(hf.generate([request])[0].steps)


def test_an_abandoned_stream_stops_the_model(hf: HfEngine) -> None:
    stream = hf.stream(ask([1, 2, 3], 60, seed=5))
    next(stream)
    stream.close()  # returns only once the model's thread has ended
    assert len(list(hf.stream(ask([1], 2, seed=1)))) == 2


def test_an_error_inside_a_stream_reaches_the_caller(hf: HfEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise ValueError("broken model")

    monkeypatch.setattr(hf.model, "generate", fail)
    with pytest.raises(ValueError, match="broken model"):
        list(hf.stream(ask([1], 2)))


def test_the_context_bounds_prompt_and_answer(hf: HfEngine) -> None:
    assert len(hf.generate([ask([1] * 62, 9, seed=0)])[0].steps) == 2
    with pytest.raises(DataError, match="has 64 tokens"):
        hf.generate([ask([1] * 64)])


def test_the_folders_own_sampling_defaults_are_ignored(hf: HfEngine) -> None:
    assert hf.model.generation_config.eos_token_id is None
    assert hf.model.generation_config.repetition_penalty in (None, 1.0)


def test_a_folder_without_a_model_is_refused(tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(ArtefactError, match=r"holds no config.json"):
        build(tmp_path, HfEngineConfig(), runtime)


def test_build_wants_its_own_config(model_dir: Path, runtime: Runtime) -> None:
    with pytest.raises(ConfigError, match="needs HfEngineConfig"):
        build(model_dir, NativeEngineConfig(name="hf"), runtime)
