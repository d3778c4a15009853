"""The LMDeploy adapter against a small stand-in with LMDeploy's argument names and result types."""

import asyncio
import logging
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from backends.runtime.lmdeploy import LmdeployEngine, build
from portable.core.errors import BackendUnavailable, ConfigError, DataError, PortableError
from portable.device.protocol import Dtype
from portable.engine.config import LmdeployEngineConfig, NativeEngineConfig
from portable.parallel.config import PrecisionConfig
from portable.parallel.runtime import Runtime
from tests.portable.engine.support import ask


@dataclass(kw_only=True)
class GenerationConfig:
    """The arguments of lmdeploy.GenerationConfig that we use, by its names."""

    max_new_tokens: int
    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    random_seed: int | None
    stop_token_ids: list[int]
    include_stop_str_in_output: bool
    skip_special_tokens: bool
    logprobs: int


@dataclass(kw_only=True)
class PytorchEngineConfig:
    """The arguments of lmdeploy.PytorchEngineConfig that we use, by its names."""

    dtype: str
    tp: int
    session_len: int
    max_batch_size: int
    cache_max_entry_count: float
    device_type: str
    logprobs_mode: str


class Pipeline:
    """Streams ``script`` two tokens at a time, in an event loop of its own thread, as LMDeploy does."""

    def __init__(self, model_path: str, backend_config: PytorchEngineConfig) -> None:
        self.model_path, self.backend_config = model_path, backend_config
        self.script: list[int] = []
        self.end = "length"
        self.with_log_probs = True
        self.calls: list[dict[str, Any]] = []
        loop = asyncio.new_event_loop()
        self.internal_thread = SimpleNamespace(loop=loop)
        threading.Thread(target=loop.run_forever, daemon=True).start()
        self.async_engine = SimpleNamespace(generate=self.generate)

    def session(self) -> str:
        return f"session {len(self.calls)}"

    async def generate(self, **call: Any) -> AsyncIterator[SimpleNamespace]:
        self.calls.append(call)
        for start in range(0, len(self.script), 2):
            ids = self.script[start : start + 2]
            entries = [{7: -0.2, token: -0.6} for token in ids] if self.with_log_probs else None
            yield SimpleNamespace(response="", token_ids=ids, logprobs=entries, finish_reason=None)
            await asyncio.sleep(0)
        yield SimpleNamespace(response="reason", token_ids=None, logprobs=None, finish_reason=self.end)


class Accelerator:
    """The CPU under another maker's name."""

    def __init__(self, inner: Any, vendor: str) -> None:
        self.inner, self.vendor = inner, vendor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def on(runtime: Runtime, vendor: str) -> Runtime:
    precision = PrecisionConfig(name="bf16", compute_dtype=Dtype.bf16)
    return replace(runtime, device=Accelerator(runtime.device, vendor), precision=precision)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("lmdeploy")
    names = {
        "pipeline": Pipeline,
        "GenerationConfig": GenerationConfig,
        "PytorchEngineConfig": PytorchEngineConfig,
    }
    for name, item in names.items():
        setattr(module, name, item)
    monkeypatch.setitem(sys.modules, "lmdeploy", module)


@pytest.fixture
def engine(model_dir: Path, runtime: Runtime, package: None) -> Iterator[LmdeployEngine]:
    config = LmdeployEngineConfig(tensor_parallel_size=2, memory_fraction=0.5, max_batch_size=7)
    engine = build(model_dir, config, on(runtime, "huawei"))
    yield engine
    loop = engine._pipe.internal_thread.loop
    loop.call_soon_threadsafe(loop.stop)


def test_the_model_is_loaded_as_the_config_says(engine: LmdeployEngine, model_dir: Path) -> None:
    assert engine._pipe.model_path == str(model_dir)
    assert engine._pipe.backend_config == PytorchEngineConfig(
        dtype="bfloat16",
        tp=2,
        session_len=64,
        max_batch_size=7,
        cache_max_entry_count=0.5,
        device_type="ascend",
        logprobs_mode="raw_logprobs",
    )
    assert engine.max_seq_len == 64


def test_requests_are_passed_on_token_ids_and_all(engine: LmdeployEngine) -> None:
    engine._pipe.script = [5, 6]
    engine.generate([ask([1, 2], 5, temperature=0.7, top_k=4, top_p=0.9, seed=11, stop_token_ids=(8,))])
    call = engine._pipe.calls[0]
    assert (call["input_ids"], call["messages"], call["do_preprocess"]) == ([1, 2], None, False)
    assert call["gen_config"] == GenerationConfig(
        max_new_tokens=5,
        do_sample=True,
        temperature=0.7,
        top_k=4,
        top_p=0.9,
        random_seed=11,
        stop_token_ids=[8],
        include_stop_str_in_output=True,
        skip_special_tokens=False,
        logprobs=1,
    )


def test_greedy_does_not_sample_and_the_context_bounds_the_answer(engine: LmdeployEngine) -> None:
    engine._pipe.script = [5]
    engine.generate([ask([1] * 60, 50, temperature=0, num_top_log_probs=3)])
    settings = engine._pipe.calls[0]["gen_config"]
    assert (settings.do_sample, settings.max_new_tokens, settings.logprobs) == (False, 4, 3)


def test_outputs_become_completions(engine: LmdeployEngine) -> None:
    ids = engine.tokenizer.encode("the lazy dog barks")
    engine._pipe.script = ids
    plain, stopped = engine.generate([ask([1], 30, num_top_log_probs=2), ask([1], 30, stop=(" dog",))])
    assert plain.token_ids == tuple(ids)
    assert (plain.text, plain.finish_reason) == ("the lazy dog barks", "length")
    assert plain.log_probs == (-0.6,) * len(ids)
    assert plain.steps[0].top == ((7, -0.2), (ids[0], -0.6))
    assert (stopped.text, stopped.finish_reason) == ("the lazy", "stop")


def test_a_stop_token_ends_it(engine: LmdeployEngine) -> None:
    engine._pipe.script, engine._pipe.end = [*engine.tokenizer.encode("dog"), 302], "stop"
    completion = engine.generate([ask([1], 30, stop_token_ids=(302,))])[0]
    assert (completion.text, completion.token_ids[-1], completion.finish_reason) == ("dog", 302, "stop")


def test_stream_gives_the_tokens_of_generate(engine: LmdeployEngine) -> None:
    engine._pipe.script = [5, 6, 7]
    assert [step.token_id for step in engine.stream(ask([1], 20))] == [5, 6, 7]


def test_an_error_of_the_engine_is_not_taken_for_an_answer(engine: LmdeployEngine) -> None:
    engine._pipe.end = "error"
    with pytest.raises(PortableError, match="LMDeploy ended a request with 'error': reason"):
        engine.generate([ask([1])])


def test_missing_log_probs_are_not_made_up(engine: LmdeployEngine) -> None:
    engine._pipe.script, engine._pipe.with_log_probs = [5, 6], False
    with pytest.raises(PortableError, match="0 log-probs for 2 tokens"):
        engine.generate([ask([1])])


def test_a_prompt_that_does_not_fit_is_refused_by_us(engine: LmdeployEngine) -> None:
    with pytest.raises(DataError, match="has 64 tokens"):
        engine.generate([ask([1] * 64)])
    assert engine._pipe.calls == []


def test_log_probs_that_mean_something_else_are_told_once(
    engine: LmdeployEngine, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("backends.runtime.lmdeploy").addHandler(caplog.handler)
    engine._pipe.script = [5]
    engine.generate([ask([1]), ask([1], temperature=0)])
    assert caplog.records == []
    engine.generate([ask([1], temperature=0.5), ask([1], temperature=0.6)])
    assert len({record.message for record in caplog.records}) == 1


@pytest.mark.parametrize(("vendor", "device_type"), [("nvidia", "cuda"), ("huawei", "ascend")])
def test_the_device_is_named_in_lmdeploys_words(
    model_dir: Path, runtime: Runtime, package: None, vendor: str, device_type: str
) -> None:
    built = build(model_dir, LmdeployEngineConfig(), on(runtime, vendor))
    assert built._pipe.backend_config.device_type == device_type


def test_a_device_that_lmdeploy_does_not_know_is_refused(
    model_dir: Path, runtime: Runtime, package: None
) -> None:
    with pytest.raises(BackendUnavailable, match="does not run on devices of 'acme', only of nvidia, huawei"):
        build(model_dir, LmdeployEngineConfig(), on(runtime, "acme"))


def test_without_the_package_the_remedy_is_named(
    model_dir: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lmdeploy", None)
    with pytest.raises(BackendUnavailable, match=r"pip install 'portable-llm\[lmdeploy\]'"):
        build(model_dir, LmdeployEngineConfig(), on(runtime, "nvidia"))


def test_build_wants_its_own_config(model_dir: Path, runtime: Runtime) -> None:
    with pytest.raises(ConfigError, match="needs LmdeployEngineConfig"):
        build(model_dir, NativeEngineConfig(name="lmdeploy"), runtime)
