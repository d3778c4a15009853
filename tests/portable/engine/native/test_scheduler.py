"""Continuous batching: who joins when, who leaves, and that nobody notices the others."""

from dataclasses import replace

import pytest

from portable.core.errors import DataError
from portable.engine.config import NativeEngineConfig
from portable.engine.native.engine import NativeEngine
from portable.engine.native.scheduler import Scheduler
from portable.engine.sequence import Sequence
from tests.portable.engine.support import ask


@pytest.fixture
def make(engine: NativeEngine):
    """Return a function (settings) -> (scheduler, add)."""

    def build(**settings: int):
        runtime = engine.runtime
        scheduler = Scheduler(
            engine.model,
            NativeEngineConfig(**settings),
            runtime.kernels,
            runtime.device,
            runtime.torch_device,
            runtime.precision.compute_dtype,
        )

        def add(key: int, prompt: list[int], max_new_tokens: int) -> Sequence:
            request = ask(prompt, max_new_tokens, temperature=0)
            sequence = Sequence(key, request, engine.tokenizer, max_new_tokens, watch_text=False)
            scheduler.add(sequence)
            return sequence

        return scheduler, add

    return build


def keys(sequences: list[Sequence]) -> list[int]:
    return [sequence.key for sequence in sequences]


def test_no_more_run_than_there_are_slots(make) -> None:
    scheduler, add = make(max_batch_size=2)
    for key in range(3):
        add(key, [key + 1, 5], 3)
    assert keys(scheduler.advance()) == [0, 1]
    assert keys(scheduler.running) == [0, 1]
    assert scheduler.num_pending == 3


def test_a_free_slot_is_taken_at_once_by_the_next(make) -> None:
    scheduler, add = make(max_batch_size=2)
    add(0, [1, 5], 2)
    add(1, [2, 5], 6)
    add(2, [3, 5], 6)
    scheduler.advance()
    scheduler.advance()  # 0 has its two tokens and leaves
    assert keys(scheduler.running) == [1]
    assert keys(scheduler.advance()) == [2]
    assert keys(scheduler.advance()) == [1, 2]


def test_prompts_that_wait_are_read_in_one_pass(make) -> None:
    scheduler, add = make(max_batch_size=8)
    for key in range(5):
        add(key, [key + 1] * (key + 1), 4)
    assert keys(scheduler.advance()) == [0, 1, 2, 3, 4]


def test_the_prefill_budget_splits_passes_but_lets_one_long_prompt_through(make) -> None:
    scheduler, add = make(max_batch_size=8, max_prefill_tokens=5)
    add(0, [1] * 9, 4)
    add(1, [2] * 3, 4)
    add(2, [3] * 2, 4)
    add(3, [4] * 1, 4)
    assert [keys(scheduler.advance()) for _ in range(3)] == [[0], [1, 2], [3]]


def test_the_cache_budget_makes_requests_wait(make) -> None:
    scheduler, add = make(max_batch_size=8, max_cache_tokens=20)
    add(0, [1] * 4, 4)
    add(1, [2] * 4, 4)
    add(2, [3] * 4, 4)
    assert keys(scheduler.advance()) == [0, 1]
    while scheduler.num_pending:
        scheduler.advance()


def test_a_request_larger_than_the_whole_budget_still_runs_alone(make) -> None:
    scheduler, add = make(max_batch_size=8, max_cache_tokens=4)
    sequence = add(0, [1] * 10, 3)
    while scheduler.num_pending:
        scheduler.advance()
    assert len(sequence.steps) == 3


def test_the_cache_grows_with_what_is_there_not_with_what_is_allowed(make) -> None:
    scheduler, add = make(max_batch_size=8)
    add(0, [1] * 3, 60)
    sizes = []
    while scheduler.num_pending:
        scheduler.advance()
        sizes.append((scheduler.cache.num_rows, scheduler.cache.num_positions))
    assert sizes[0] == (1, 16)
    assert sizes[20] == (1, 32)
    assert sizes[-1] == (1, 64)


def test_leaving_from_the_middle_keeps_the_others_right(make, engine: NativeEngine) -> None:
    """The last slot moves into the hole: its tokens must go on as if nothing had happened."""
    scheduler, add = make(max_batch_size=4)
    lengths = [9, 2, 5, 9]
    sequences = [add(key, [key + 1, 7, 2 * key + 3], size) for key, size in enumerate(lengths)]
    while scheduler.num_pending:
        scheduler.advance()
    for sequence in sequences:
        alone = engine.generate([replace(sequence.request)])[0]
        assert sequence.completion().token_ids == alone.token_ids


def test_equal_prompts_are_read_once_and_answered_apart(make, engine: NativeEngine, monkeypatch) -> None:
    widths: list[int] = []
    forward = engine.model.forward

    def spy(input_ids, *args, **kwargs):
        widths.append(input_ids.numel())
        return forward(input_ids, *args, **kwargs)

    monkeypatch.setattr(engine.model, "forward", spy)
    scheduler, add = make(max_batch_size=8)
    first, second, third = add(0, [1, 2, 3], 4), add(1, [9, 8], 4), add(2, [1, 2, 3], 4)
    while scheduler.num_pending:
        scheduler.advance()
    assert widths == [5, 3, 3, 3]
    assert first.completion().token_ids == third.completion().token_ids
    assert first.completion().token_ids != second.completion().token_ids


def test_cancelling_frees_the_slot_of_a_running_and_forgets_a_waiting_request(make) -> None:
    scheduler, add = make(max_batch_size=2)
    for key in range(4):
        add(key, [key + 1, 5], 5)
    scheduler.advance()
    scheduler.cancel(0)
    scheduler.cancel(3)
    scheduler.cancel(99)  # nobody
    assert keys(scheduler.running) == [1]
    assert keys(scheduler.advance()) == [2]
    while scheduler.num_pending:
        scheduler.advance()


def test_the_model_is_left_in_the_mode_it_was_in(make, engine: NativeEngine) -> None:
    scheduler, add = make(max_batch_size=2)
    engine.model.train()
    add(0, [1, 2], 2)
    scheduler.advance()
    assert engine.model.training
    engine.model.eval()
    scheduler.advance()
    assert not engine.model.training


def test_session_reports_every_token_with_its_key(engine: NativeEngine) -> None:
    session = engine.session()
    session.add(10, ask([1, 2], 2, temperature=0))
    first = session.step()
    session.add(20, ask([3, 4], 3, temperature=0))  # joins while the other runs
    rest = []
    while session.num_pending:
        rest += session.step()
    assert [news.key for news in first] == [10]
    assert sorted(news.key for news in rest) == [10, 20, 20, 20]
    assert {news.key: news.finish_reason for news in rest} == {10: "length", 20: "length"}
    assert session.step() == []


def test_session_text_is_the_completions_text(engine: NativeEngine) -> None:
    request = ask([5, 6, 7], 12, seed=4)
    session = engine.session()
    session.add(0, request)
    text = ""
    while session.num_pending:
        text += "".join(news.text for news in session.step())
    assert text == engine.generate([request])[0].text


def test_session_refuses_a_prompt_that_does_not_fit(engine: NativeEngine) -> None:
    session = engine.session()
    with pytest.raises(DataError, match="70 tokens"):
        session.add(0, ask([1] * 70))
    assert session.num_pending == 0
