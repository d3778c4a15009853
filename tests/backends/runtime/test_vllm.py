"""The vLLM adapter against a small stand-in with vLLM's argument names and result types."""

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from backends.runtime.vllm import VllmEngine, build
from portable.core.errors import BackendUnavailable, ConfigError, DataError
from portable.engine.config import NativeEngineConfig, VllmEngineConfig
from portable.model.tokenizer import Tokenizer
from portable.parallel.runtime import Runtime
from tests.portable.engine.support import ask


@dataclass(kw_only=True)
class SamplingParams:
    """The arguments of vllm.SamplingParams that we use, by its names: another name is a TypeError."""

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int | None
    stop: list[str]
    stop_token_ids: list[int]
    ignore_eos: bool
    logprobs: int


@dataclass
class CompletionOutput:
    token_ids: list[int]
    logprobs: list[dict[int, SimpleNamespace]]
    finish_reason: str | None


@dataclass
class LLMEngine:
    """One token a step for every request, out of ``script``."""

    script: list[int]
    model_config: SimpleNamespace
    running: dict[str, int] = field(default_factory=dict)
    aborted: list[str] = field(default_factory=list)

    def add_request(self, request_id: str, prompt: dict[str, list[int]], params: SamplingParams) -> None:
        assert prompt["prompt_token_ids"]
        self.running[request_id] = 0

    def has_unfinished_requests(self) -> bool:
        return any(count < len(self.script) for count in self.running.values())

    def step(self) -> list[SimpleNamespace]:
        outputs = []
        for name in self.running:
            self.running[name] += 1
            output = answer(self.script[: self.running[name]], 2)
            outputs.append(SimpleNamespace(request_id=name, outputs=[output]))
        return outputs

    def abort_request(self, request_ids: list[str]) -> None:
        self.aborted += request_ids
        for name in request_ids:
            self.running.pop(name, None)


def answer(token_ids: list[int], num_top: int) -> CompletionOutput:
    """As vLLM reports it: a dict a token, of the drawn token and the best ones, in no particular order."""
    entries = []
    for token in token_ids:
        best = {rank: SimpleNamespace(logprob=-0.1 * (rank + 1), rank=rank + 1) for rank in range(num_top)}
        entries.append({token: SimpleNamespace(logprob=-0.7, rank=9), **dict(reversed(best.items()))})
    return CompletionOutput(list(token_ids), entries, "length")


class LLM:
    """Keeps what it was made with and asked for."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.calls: list[tuple[list[dict[str, list[int]]], list[SamplingParams]]] = []
        shape = SimpleNamespace(max_model_len=64, get_vocab_size=lambda: 306)
        self.script: list[int] = []
        self.llm_engine = LLMEngine(self.script, shape)

    def generate(
        self, prompts: list[dict[str, list[int]]], sampling_params: list[SamplingParams], *, use_tqdm: bool
    ) -> list[SimpleNamespace]:
        assert not use_tqdm
        self.calls.append((prompts, sampling_params))
        return [SimpleNamespace(outputs=[answer(self.script, item.logprobs)]) for item in sampling_params]


@pytest.fixture
def engine(model_dir: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> VllmEngine:
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "vllm", module)
    config = VllmEngineConfig(tensor_parallel_size=2, memory_fraction=0.5, max_batch_size=7)
    return build(model_dir, config, runtime)


def llm_of(engine: VllmEngine) -> LLM:
    return engine._llm


def test_the_model_is_loaded_as_the_config_says(engine: VllmEngine, model_dir: Path) -> None:
    assert llm_of(engine).settings == {
        "model": str(model_dir),
        "dtype": "float32",
        "tensor_parallel_size": 2,
        "gpu_memory_utilization": 0.5,
        "max_num_seqs": 7,
        "max_logprobs": 20,
        "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm",
    }
    assert engine.max_seq_len == 64


def test_requests_are_passed_on_token_ids_and_all(engine: VllmEngine) -> None:
    llm_of(engine).script[:] = engine.tokenizer.encode("the fox")
    request = ask(
        [1, 2, 3],
        5,
        temperature=0.7,
        top_k=4,
        top_p=0.9,
        seed=11,
        stop=("x",),
        stop_token_ids=(8,),
        num_top_log_probs=2,
    )
    engine.generate([request, ask([9], 100)])
    prompts, params = llm_of(engine).calls[0]
    assert prompts == [{"prompt_token_ids": [1, 2, 3]}, {"prompt_token_ids": [9]}]
    assert params[0] == SamplingParams(
        max_tokens=5,
        temperature=0.7,
        top_k=4,
        top_p=0.9,
        seed=11,
        stop=["x"],
        stop_token_ids=[8],
        ignore_eos=True,
        logprobs=2,
    )
    assert params[1].max_tokens == 63  # the room that the context leaves


def test_outputs_become_completions(engine: VllmEngine) -> None:
    ids = engine.tokenizer.encode("the lazy dog barks")
    llm_of(engine).script[:] = ids
    plain, stopped = engine.generate(
        [ask([1], 30, num_top_log_probs=2), ask([1], 30, stop=(" dog",), stop_token_ids=(0,))]
    )
    assert plain.token_ids == tuple(ids)
    assert (plain.text, plain.finish_reason) == ("the lazy dog barks", "length")
    assert plain.log_probs == (-0.7,) * len(ids)
    assert plain.steps[0].top == ((0, -0.1), (1, -0.2))
    assert (stopped.text, stopped.finish_reason) == ("the lazy", "stop")
    assert stopped.steps[0].top == ()


def test_stream_yields_each_token_once_and_cleans_up(engine: VllmEngine) -> None:
    ids = engine.tokenizer.encode("the fox")
    llm_of(engine).script[:] = ids
    llm_of(engine).llm_engine.running["somebody else"] = 0
    assert [step.token_id for step in engine.stream(ask([1], 20))] == ids
    stream = engine.stream(ask([1], 20))
    next(stream)
    stream.close()
    assert len(llm_of(engine).llm_engine.aborted) == 2
    assert list(llm_of(engine).llm_engine.running) == ["somebody else"]


def test_a_prompt_that_does_not_fit_is_refused_by_us(engine: VllmEngine) -> None:
    with pytest.raises(DataError, match="has 64 tokens"):
        engine.generate([ask([1] * 64)])
    with pytest.raises(DataError, match="token id 306"):
        engine.stream(ask([306]))
    assert llm_of(engine).calls == []


def test_log_probs_that_mean_something_else_are_told_once(
    engine: VllmEngine, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("backends.runtime.vllm").addHandler(caplog.handler)
    llm_of(engine).script[:] = [5]
    engine.generate([ask([1], temperature=0.5), ask([1], temperature=0, top_k=3)])
    assert caplog.records == []
    engine.generate([ask([1], top_k=3), ask([1], top_p=0.5)])
    assert len({record.message for record in caplog.records}) == 1


def test_without_the_package_the_remedy_is_named(
    model_dir: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # as Python marks a package that must not be found
    with pytest.raises(BackendUnavailable, match=r"pip install 'portable-llm\[vllm\]'"):
        build(model_dir, VllmEngineConfig(), runtime)


def test_build_wants_its_own_config(model_dir: Path, runtime: Runtime) -> None:
    with pytest.raises(ConfigError, match="needs VllmEngineConfig"):
        build(model_dir, NativeEngineConfig(name="vllm"), runtime)


def test_the_tokenizer_is_the_folders_own(engine: VllmEngine, tokenizer: Tokenizer) -> None:
    assert engine.tokenizer.encode("the fox") == tokenizer.encode("the fox")
