"""Who is found at fault, with several ranks' watches in one process on one store."""

from __future__ import annotations

import time

import pytest
import torch.distributed as dist

from portable.collective.watch import Call, Watch

WORLD = Call("world", 3, "all_reduce sum of float32 (2)", (0, 1, 2))


class Mark:
    """An event of a device whose work is done when the test says so."""

    def __init__(self, done: bool = False) -> None:
        self.done = done

    def query(self) -> bool:
        return self.done


class Broken:
    """A store whose process has ended."""

    def clone(self) -> Broken:
        return self

    def check(self, keys: list[str]) -> bool:
        raise RuntimeError("Connection reset by peer")

    def set(self, key: str, value: str) -> None:
        raise RuntimeError("Connection reset by peer")


@pytest.fixture
def watches():
    started: list[Watch] = []

    def start(num_ranks: int, timeout_s: float = 2.0, store: object = None) -> list[Watch]:
        shared = store or dist.HashStore()
        for rank in range(num_ranks):
            started.append(Watch(shared, rank, timeout_s, keeper="rank 0", serves=rank == 0))
        return started

    yield start
    for watch in started:
        watch.stop()


def advance(watch: Watch, number: int) -> None:
    for place in range(number):
        watch.enter("world", f"call number {place + 1}")


def test_calls_are_counted_by_what_is_counted(watches):
    (watch,) = watches(1)
    assert [watch.enter("world", "a"), watch.enter("tp", "b"), watch.enter("world", "c")] == [1, 1, 2]


def test_a_rank_that_answers_but_is_behind_is_named_with_its_last_call(watches):
    ranks = watches(3)
    for watch, number in zip(ranks, (3, 2, 3), strict=True):
        advance(watch, number)
    text = ranks[0].explain(WORLD)
    assert text.startswith(
        "rank 1 did not arrive within communicator.timeout_s=2 (rank 1 last called call number 2)"
    )


def test_a_silent_rank_is_at_fault_even_if_another_is_behind(watches):
    ranks = watches(2)
    advance(ranks[0], 3)
    assert ranks[0].explain(WORLD) == "rank 2 does not answer: it is gone or frozen; look at its log"


def test_all_ranks_are_given_the_first_verdict(watches):
    ranks = watches(2)
    advance(ranks[0], 3)
    ranks[0].explain(WORLD)
    axis = Call("tp", 1, "broadcast", (0, 1))
    assert ranks[1].explain(axis) == (
        "world rank 2 does not answer: it is gone or frozen; look at its log (found on axis 'world', in "
        "all_reduce sum of float32 (2))"
    )


def test_if_all_came_the_connection_is_at_fault(watches):
    ranks = watches(3)
    for watch in ranks:
        advance(watch, 3)
    assert ranks[2].explain(WORLD).startswith("all ranks came to this call; the connection broke")


def test_pairs_are_judged_by_their_own_count(watches):
    ranks = watches(2)
    advance(ranks[1], 5)  # far ahead on the axis, yet not at the pair's second message
    ranks[1].enter("world 0-1", "send")
    for _ in range(2):
        ranks[0].enter("world 0-1", "recv")
    call = Call("world", 0, "recv from 1", (0, 1), {1: ("world 0-1", 2)})
    assert ranks[0].explain(call).startswith("rank 1 did not arrive")


def test_a_store_out_of_reach_names_its_keeper(watches):
    (watch,) = watches(1, store=Broken())
    assert watch.explain(WORLD) == "rank 0, which keeps the rendezvous, is gone or frozen; look at its log"


def test_time_is_left_to_ask_around():
    for timeout_s in (0.5, 5.0, 600.0):
        watch = Watch(dist.HashStore(), 0, timeout_s, keeper="rank 0", serves=True)
        watch.stop()
        assert 0.5 * timeout_s < watch.patience_s
        assert watch.patience_s + 1.5 * watch.grace_s < timeout_s


def test_a_call_that_does_not_end_on_the_device_names_the_rank_that_never_reached_it(watches):
    ranks = watches(3, timeout_s=1.0)
    aborted: list[int] = []
    for watch in ranks:
        advance(watch, 3)
        watch.on_failure.append(lambda rank=watch.rank: aborted.append(rank))
        watch.follow(WORLD, Mark(done=watch.rank != 1), Mark())
        if watch.rank == 1:
            watch.follow(Call("world", 2, "before", (0, 1, 2)), Mark(done=True), Mark(done=True))
    deadline = time.monotonic() + 5
    while ranks[0].failure is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert ranks[0].failure is not None
    assert ranks[0].failure.startswith(
        "rank 0 waits on its device for the end of all_reduce sum of float32 (2), call 3 on axis 'world': "
        "rank 1 did not arrive within communicator.timeout_s=1"
    )
    assert 0 in aborted


def test_calls_that_end_are_forgotten(watches):
    (watch,) = watches(1, timeout_s=0.5)
    after = Mark()
    watch.follow(WORLD, Mark(done=True), after)
    time.sleep(0.1)
    after.done = True
    time.sleep(0.6)
    assert watch.failure is None


def test_a_transport_that_cannot_abort_is_no_second_error(watches):
    (watch,) = watches(1, timeout_s=0.5)

    def refuse() -> None:
        raise RuntimeError("abort is not implemented")

    watch.on_failure.append(refuse)
    watch.follow(Call("world", 1, "barrier", (0,)), Mark(done=True), Mark())
    time.sleep(1.2)
    assert watch.failure is not None
    assert watch._thread.is_alive()
