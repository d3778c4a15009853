"""Batches drawn ahead: the same ones, at the same place, with the same errors."""

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from portable.core.errors import ConfigError, DataError
from portable.data.prefetch import PrefetchSource


class Numbers:
    """Hands out [n] for step n; refuses step ``bad``, every time; remembers how far it was drawn."""

    def __init__(self, bad: int = -1, time_s: float = 0.0) -> None:
        self.next_sample = 0
        self.bad = bad
        self.time_s = time_s

    def next_batches(self) -> Sequence[Any]:
        time.sleep(self.time_s)
        if self.next_sample == self.bad:
            raise DataError(f"step {self.bad} is damaged")
        self.next_sample += 1
        return [self.next_sample - 1]

    def metrics(self) -> dict[str, float]:
        return {"samples": float(self.next_sample)}

    def state_dict(self) -> dict[str, Any]:
        return {"next_sample": self.next_sample}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.next_sample = state["next_sample"]


@pytest.fixture
def prefetch():
    made: list[PrefetchSource] = []

    def make(source: Numbers, depth: int = 2) -> PrefetchSource:
        made.append(PrefetchSource(source, depth))
        return made[-1]

    yield make
    for source in made:
        source.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_order_is_kept_and_the_thread_stays_a_fixed_distance_ahead(prefetch):
    source = Numbers()
    ahead = prefetch(source, depth=3)
    assert [ahead.next_batches() for _ in range(20)] == [[n] for n in range(20)]
    wait_until(lambda: source.next_sample == 23)
    time.sleep(0.05)
    assert source.next_sample == 23


def test_the_state_is_that_of_what_was_handed_out(prefetch):
    source = Numbers()
    ahead = prefetch(source)
    assert ahead.state_dict() == {"next_sample": 0}
    ahead.next_batches()
    wait_until(lambda: source.next_sample == 3)
    assert ahead.state_dict() == {"next_sample": 1}
    assert ahead.metrics() == {"samples": 1.0}


def test_going_to_a_position_throws_away_what_waits(prefetch):
    ahead = prefetch(Numbers())
    ahead.next_batches()
    ahead.load_state_dict({"next_sample": 40})
    assert ahead.metrics() == {"samples": 40.0}
    assert [ahead.next_batches(), ahead.next_batches()] == [[40], [41]]


def test_a_closed_source_goes_on_where_it_was(prefetch):
    source = Numbers()
    ahead = prefetch(source)
    ahead.next_batches()
    ahead.close()
    ahead.close()
    assert source.next_sample == 1
    assert ahead.next_batches() == [1]


def test_an_error_comes_at_its_step_and_again_as_it_would_without_a_thread(prefetch):
    source = Numbers(bad=2)
    ahead = prefetch(source)
    assert [ahead.next_batches(), ahead.next_batches()] == [[0], [1]]
    for _ in range(4):
        with pytest.raises(DataError, match="step 2 is damaged"):
            ahead.next_batches()
    assert ahead.state_dict() == {"next_sample": 2}
    source.bad = -1
    ahead.load_state_dict(ahead.state_dict())
    assert ahead.next_batches() == [2]


def test_drawing_runs_while_the_step_computes(prefetch):
    """Five steps that compute as long as drawing takes: side by side, not one after the other."""
    ahead = prefetch(Numbers(time_s=0.05))
    ahead.next_batches()
    waited = 0.0
    for _ in range(5):
        time.sleep(0.06)
        start = time.perf_counter()
        ahead.next_batches()
        waited += time.perf_counter() - start
    assert waited < 0.15  # of the 0.25 s that drawing took


def test_a_distance_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="prefetch_batches=0; use 1 or more"):
        PrefetchSource(Numbers(), 0)
