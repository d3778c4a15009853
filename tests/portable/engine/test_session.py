"""Sessions over engines that only answer whole batches."""

import pytest

from portable.core.errors import DataError
from portable.engine.native.engine import NativeEngine
from portable.engine.native.scheduler import NativeSession
from portable.engine.session import BatchSession, open_session
from portable.model.tokenizer import Tokenizer
from tests.portable.engine.support import ScriptedEngine, ask


def test_an_engine_with_its_own_session_is_asked_for_it(engine: NativeEngine) -> None:
    assert isinstance(open_session(engine, 4), NativeSession)


def test_other_engines_are_batched(tokenizer: Tokenizer) -> None:
    assert isinstance(open_session(ScriptedEngine(tokenizer, "dog"), 4), BatchSession)


def test_waiting_requests_are_answered_together_up_to_the_limit(tokenizer: Tokenizer) -> None:
    engine = ScriptedEngine(tokenizer, "the fox")
    session = BatchSession(engine, max_batch_size=2)
    for key in range(3):
        session.add(key, ask([1, key + 1], max_new_tokens=20))
    first, second = session.step(), session.step()
    assert [len(batch) for batch in engine.batches] == [2, 1]
    assert {news.key for news in first} == {0, 1}
    assert {news.key for news in second} == {2}
    assert session.num_pending == 0


def test_news_add_up_to_the_completion(tokenizer: Tokenizer) -> None:
    engine = ScriptedEngine(tokenizer, "the lazy dog barks")
    session = BatchSession(engine, max_batch_size=2)
    session.add(5, ask([1], max_new_tokens=30, stop_token_ids=tokenizer.stop_token_ids))
    news = session.step()
    assert "".join(item.text for item in news) == "the lazy dog barks"
    assert [item.step.token_id for item in news] == engine.ids
    assert [item.finish_reason for item in news] == [None] * (len(news) - 1) + ["stop"]


def test_an_end_that_only_the_engine_knows_is_passed_on(tokenizer: Tokenizer) -> None:
    session = BatchSession(ScriptedEngine(tokenizer, "fo", ends=False), max_batch_size=1)
    session.add(0, ask([1], max_new_tokens=30, stop=("fox",)))
    news = session.step()
    assert (news[-1].finish_reason, "".join(item.text for item in news)) == ("length", "fo")


def test_a_cancelled_request_is_never_generated(tokenizer: Tokenizer) -> None:
    engine = ScriptedEngine(tokenizer, "dog")
    session = BatchSession(engine, max_batch_size=4)
    session.add(0, ask([1]))
    session.add(1, ask([2]))
    session.cancel(0)
    assert {news.key for news in session.step()} == {1}
    assert [request.prompt_ids for request in engine.batches[0]] == [(2,)]


def test_nothing_waiting_asks_nothing_of_the_engine(tokenizer: Tokenizer) -> None:
    engine = ScriptedEngine(tokenizer, "dog")
    assert BatchSession(engine, 1).step() == []
    assert engine.batches == []


def test_a_prompt_that_does_not_fit_is_refused_before_it_joins_others(tokenizer: Tokenizer) -> None:
    session = BatchSession(ScriptedEngine(tokenizer, "dog"), 2)
    session.add(0, ask([1]))
    with pytest.raises(DataError, match="80 tokens"):
        session.add(1, ask([1] * 80))
    assert {news.key for news in session.step()} == {0}
