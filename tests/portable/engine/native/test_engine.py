"""The native engine against plain forward passes and against transformers."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from portable.core.errors import ConfigError, DataError
from portable.engine.config import HfEngineConfig, NativeEngineConfig
from portable.engine.native.engine import NativeEngine, build
from portable.engine.request import Request
from portable.model.config import Gate, MlaConfig, MoeConfig
from portable.model.init import new_model
from portable.parallel.runtime import Runtime
from tests.portable.engine.support import ask, make_model_config, plain_log_probs

PROMPTS = [[1, 2, 3], [40, 41], [7] * 9, [100, 3, 250, 8, 8], [1, 2, 3]]


def requests(**settings: float) -> list[Request]:
    return [ask(prompt, 4 + 3 * index, seed=index, **settings) for index, prompt in enumerate(PROMPTS)]


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.7}, {"temperature": 1.4, "top_k": 20, "top_p": 0.9}]
)
def test_log_probs_agree_with_a_plain_forward_pass(engine: NativeEngine, settings: dict[str, float]) -> None:
    asked = requests(**settings)
    for request, completion in zip(asked, engine.generate(asked), strict=True):
        temperature = request.sampling.temperature
        expected = plain_log_probs(engine.model, request.prompt_ids, completion.token_ids, temperature)
        assert completion.log_probs == pytest.approx(expected, abs=1e-5)


def test_latent_attention_and_experts_decode_as_they_read(engine: NativeEngine, runtime: Runtime) -> None:
    shape = replace(
        make_model_config(engine.tokenizer.vocab_size),
        mla=MlaConfig(kv_lora_rank=12, q_lora_rank=20, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=10),
        moe=MoeConfig(
            num_experts=6, intermediate_size=24, num_shared_experts=1, first_dense_layers=1, gate=Gate.sigmoid
        ),
        head_dim=12,
        num_kv_heads=4,
        qk_norm=False,
    )
    model = new_model(shape, runtime.kernels, seed=3)
    sparse = NativeEngine(model, engine.tokenizer, NativeEngineConfig(max_batch_size=4), runtime)
    asked = requests()
    for request, completion in zip(asked, sparse.generate(asked), strict=True):
        expected = plain_log_probs(model, request.prompt_ids, completion.token_ids)
        assert completion.log_probs == pytest.approx(expected, abs=1e-5)


def test_greedy_log_probs_are_those_of_temperature_one(engine: NativeEngine) -> None:
    request = ask(PROMPTS[0], temperature=0)
    completion = engine.generate([request])[0]
    expected = plain_log_probs(engine.model, request.prompt_ids, completion.token_ids)
    assert completion.log_probs == pytest.approx(expected, abs=1e-5)


def test_greedy_tokens_equal_those_of_transformers(engine: NativeEngine, model_dir: Path) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    theirs.generation_config.eos_token_id = None
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        expected = theirs.generate(ids, max_new_tokens=30, do_sample=False, pad_token_id=0)[0, len(prompt) :]
        completion = engine.generate([ask(prompt, 30, temperature=0)])[0]
        assert list(completion.token_ids) == expected.tolist()


def test_seeded_tokens_are_the_same_alone_and_in_any_company(engine: NativeEngine) -> None:
    asked = requests(temperature=1.2)
    together = engine.generate(asked)
    backwards = engine.generate(asked[::-1])[::-1]
    for request, first, second in zip(asked, together, backwards, strict=True):
        alone = engine.generate([request])[0]
        assert first.token_ids == second.token_ids == alone.token_ids


def test_the_same_batch_twice_is_the_same_to_the_bit(engine: NativeEngine) -> None:
    assert engine.generate(requests()) == engine.generate(requests())


def test_different_seeds_give_different_tokens(engine: NativeEngine) -> None:
    completions = engine.generate([ask([1, 2, 3], 8, seed=seed) for seed in range(8)])
    assert len({completion.token_ids for completion in completions}) == 8


def test_unseeded_requests_follow_the_host_stream(engine: NativeEngine) -> None:
    asked = [ask(prompt, 6) for prompt in PROMPTS]
    torch.manual_seed(1)
    first = engine.generate(asked)
    torch.manual_seed(1)
    assert engine.generate(asked) == first
    assert engine.generate(asked) != first


def test_answers_keep_the_order_of_requests(engine: NativeEngine) -> None:
    """More requests than slots, with lengths that finish out of order."""
    sizes = [7, 1, 5, 2, 9, 3, 1, 4, 6]
    asked = [ask([index + 1, 5], size, temperature=0) for index, size in enumerate(sizes)]
    assert [len(completion.steps) for completion in engine.generate(asked)] == sizes


def test_no_requests_no_answers(engine: NativeEngine) -> None:
    assert engine.generate([]) == []


def test_stop_token_ends_and_is_kept(engine: NativeEngine) -> None:
    free = engine.generate([ask([1, 2, 3], 10, temperature=0)])[0]
    stop = free.token_ids[3]
    first = free.token_ids.index(stop)
    completion = engine.generate([ask([1, 2, 3], 10, temperature=0, stop_token_ids=(stop,))])[0]
    assert completion.token_ids == free.token_ids[: first + 1]
    assert completion.finish_reason == "stop"


def test_stop_string_ends_and_is_cut(engine: NativeEngine) -> None:
    request = ask([5, 6, 7], 30, seed=2)
    text = engine.generate([request])[0].text
    stop = text[6:8]
    completion = engine.generate([ask([5, 6, 7], 30, seed=2, stop=(stop,))])[0]
    assert completion.text == text[: text.index(stop)]
    assert completion.finish_reason == "stop"


def test_the_context_bounds_the_answer(engine: NativeEngine) -> None:
    completion = engine.generate([ask([1] * 60, 50, temperature=0)])[0]
    assert len(completion.steps) == engine.max_seq_len - 60
    assert completion.finish_reason == "length"
    expected = plain_log_probs(engine.model, [1] * 60, completion.token_ids)
    assert completion.log_probs == pytest.approx(expected, abs=1e-5)


def test_a_prompt_that_does_not_fit_is_refused_before_anything_runs(engine: NativeEngine) -> None:
    with pytest.raises(DataError, match="has 64 tokens and the model reads at most 64"):
        engine.generate([ask([1]), ask([1] * 64)])


def test_alternatives_agree_with_a_plain_forward_pass(engine: NativeEngine) -> None:
    completion = engine.generate([ask([1, 2], 3, seed=0, num_top_log_probs=4)])[0]
    for position, step in enumerate(completion.steps):
        before = [1, 2, *completion.token_ids[:position]]
        for token, log_prob in step.top:
            assert log_prob == pytest.approx(plain_log_probs(engine.model, before, [token])[0], abs=1e-5)
        assert sorted(step.top, key=lambda item: -item[1]) == list(step.top)


def test_stream_gives_the_same_tokens_one_by_one(engine: NativeEngine) -> None:
    request = ask([3, 4, 5], 7, seed=11)
    assert list(engine.stream(request)) == list(engine.generate([request])[0].steps)


def test_stream_refuses_at_the_call(engine: NativeEngine) -> None:
    with pytest.raises(DataError, match="prompt is empty"):
        engine.stream(ask([]))


def test_an_optimiser_step_is_seen_and_can_follow_generation(engine: NativeEngine, runtime: Runtime) -> None:
    """The weights are shared, and having generated must not keep them from being trained."""
    from portable.model.init import new_model

    model = new_model(engine.model.config, runtime.kernels, seed=8)
    trained = NativeEngine(model, engine.tokenizer, NativeEngineConfig(), runtime)
    request = ask([1, 2, 3], 5, temperature=0)
    before = trained.generate([request])[0]
    ids = torch.tensor([[1, 2, 3, 4]])
    optimizer = torch.optim.SGD(model.parameters(), lr=5.0)
    loss = -model(ids[:, :-1], torch.arange(3)[None], targets=ids[:, 1:]).sum()
    loss.backward()
    optimizer.step()
    after = trained.generate([request])[0]
    assert after.log_probs != before.log_probs
    expected = plain_log_probs(model, request.prompt_ids, after.token_ids)
    assert after.log_probs == pytest.approx(expected, abs=1e-5)


def test_build_loads_a_folder_into_the_same_engine(
    engine: NativeEngine, model_dir: Path, runtime: Runtime
) -> None:
    built = build(model_dir, NativeEngineConfig(), runtime)
    ours, theirs = engine.generate(requests()), built.generate(requests())
    assert [completion.token_ids for completion in ours] == [completion.token_ids for completion in theirs]
    assert not any(parameter.requires_grad for parameter in built.model.parameters())


def test_build_wants_its_own_config(model_dir: Path, runtime: Runtime) -> None:
    with pytest.raises(ConfigError, match="needs NativeEngineConfig"):
        build(model_dir, HfEngineConfig(name="native"), runtime)
