"""The engine's thread: many clients, one batch; errors reach those they concern."""

import queue
import threading
from collections.abc import Iterator, Sequence

import pytest

from portable.core.errors import DataError, PortableError
from portable.engine.native.engine import NativeEngine
from portable.engine.request import Completion, Progress, Request
from portable.engine.server.worker import Worker
from portable.model.tokenizer import Tokenizer
from tests.portable.engine.support import ScriptedEngine, ask

WAIT_S = 60  # never reached unless the test fails


class Listener:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.heard: queue.Queue[Progress | PortableError] = queue.Queue()

    def __call__(self, item: Progress | PortableError) -> None:
        self.heard.put(item)

    def next(self) -> Progress | PortableError:
        return self.heard.get(timeout=WAIT_S)

    def all(self) -> list[Progress]:
        """Wait for the end of the request."""
        items: list[Progress] = []
        while not items or items[-1].finish_reason is None:
            item = self.next()
            assert isinstance(item, Progress)
            items.append(item)
        return items


class GatedEngine(ScriptedEngine):
    """Waits in ``generate`` until the test opens the gate; then fails with ``error``, if there is one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer, "the fox")
        self.entered, self.gate = threading.Semaphore(0), threading.Semaphore(0)
        self.error: Exception | None = None

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.entered.release()
        assert self.gate.acquire(timeout=WAIT_S)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return super().generate(requests)


@pytest.fixture
def worker(engine: NativeEngine) -> Iterator[Worker]:
    worker = Worker(engine, max_batch_size=4)
    yield worker
    worker.close()


@pytest.fixture
def gated(tokenizer: Tokenizer) -> Iterator[tuple[GatedEngine, Worker]]:
    engine = GatedEngine(tokenizer)
    worker = Worker(engine, max_batch_size=4)
    yield engine, worker
    for _ in range(10):
        engine.gate.release()
    worker.close()


def test_every_client_hears_its_own_tokens(worker: Worker, engine: NativeEngine) -> None:
    asked = [ask([index + 1, 5], 3 + index, seed=index) for index in range(7)]
    listeners = [Listener() for _ in asked]
    for request, listener in zip(asked, listeners, strict=True):
        worker.submit(request, listener)
    for request, listener in zip(asked, listeners, strict=True):
        news = listener.all()
        assert tuple(item.step.token_id for item in news) == engine.generate([request])[0].token_ids


def test_requests_that_come_while_a_batch_runs_share_the_next(gated: tuple[GatedEngine, Worker]) -> None:
    engine, worker = gated
    listeners = [Listener() for _ in range(3)]
    worker.submit(ask([1], 20), listeners[0])
    assert engine.entered.acquire(timeout=WAIT_S)
    worker.submit(ask([2], 20), listeners[1])
    worker.submit(ask([3], 20), listeners[2])
    engine.gate.release()
    engine.gate.release()
    for listener in listeners:
        listener.all()
    assert [len(batch) for batch in engine.batches] == [1, 2]


def test_a_prompt_that_does_not_fit_fails_alone(worker: Worker) -> None:
    good, bad = Listener(), Listener()
    worker.submit(ask([1] * 80), bad)
    worker.submit(ask([1, 2], 2, seed=0), good)
    assert isinstance(bad.next(), DataError)
    assert len(good.all()) == 2


def test_a_cancelled_request_is_not_generated(gated: tuple[GatedEngine, Worker]) -> None:
    engine, worker = gated
    first, second, third = Listener(), Listener(), Listener()
    worker.submit(ask([1], 20), first)
    assert engine.entered.acquire(timeout=WAIT_S)
    worker.cancel(worker.submit(ask([2], 20), second))
    worker.submit(ask([3], 20), third)
    engine.gate.release()
    engine.gate.release()
    first.all()
    third.all()
    assert [request.prompt_ids for batch in engine.batches for request in batch] == [(1,), (3,)]
    assert second.heard.empty()


def test_a_failed_batch_is_told_to_its_requests_and_the_next_works(gated: tuple[GatedEngine, Worker]) -> None:
    engine, worker = gated
    engine.error = PortableError("the weights are damaged")
    failed, after = Listener(), Listener()
    worker.submit(ask([1], 20), failed)
    engine.gate.release()
    assert "damaged" in str(failed.next())
    worker.submit(ask([2], 20), after)
    engine.gate.release()
    assert after.all()[-1].finish_reason == "length"
    assert worker.alive


def test_an_unexpected_error_stops_the_worker_and_nobody_waits_for_ever(
    gated: tuple[GatedEngine, Worker],
) -> None:
    engine, worker = gated
    engine.error = ZeroDivisionError("bug")
    running, queued, late = Listener(), Listener(), Listener()
    worker.submit(ask([1], 20), running)
    assert engine.entered.acquire(timeout=WAIT_S)
    worker.submit(ask([2], 20), queued)
    engine.gate.release()
    for listener in (running, queued):
        assert "ZeroDivisionError" in str(listener.next())
    assert not worker.alive
    worker.submit(ask([3], 20), late)
    assert isinstance(late.next(), PortableError)


def test_closing_tells_those_who_wait(gated: tuple[GatedEngine, Worker]) -> None:
    engine, worker = gated
    running, queued = Listener(), Listener()
    worker.submit(ask([1], 20), running)
    assert engine.entered.acquire(timeout=WAIT_S)
    worker.submit(ask([2], 20), queued)
    closing = threading.Thread(target=worker.close, daemon=True)
    closing.start()
    while worker._commands.qsize() < 2:  # the second request, and the order to stop
        threading.Event().wait(0.001)
    engine.gate.release()
    running.all()
    assert "stopping" in str(queued.next())
    closing.join(timeout=WAIT_S)
    assert not worker.alive
