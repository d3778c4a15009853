import pytest

from portable.device.select import load_backend
from portable.train.meter.step_time import StepTime


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Mark:
    """An event by a clock that the test sets."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def record(self) -> None:
        self.at = self._clock()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: "Mark") -> float:
        return (end.at - self.at) * 1000


class Device:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def new_event(self, *, timing: bool) -> Mark:
        assert timing
        return Mark(self._clock)


def step(times: StepTime, clock: Clock, wait_s: float, work_s: float, update_s: float) -> None:
    with times.waiting("data_wait_s"):
        clock.now += wait_s
    times.begin()
    clock.now += work_s
    times.mark()
    clock.now += update_s
    times.mark()


def test_each_part_is_a_mean_over_the_steps_since_the_last_reading():
    clock = Clock()
    times = StepTime(Device(clock), clock)
    step(times, clock, 1.0, 10.0, 2.0)
    step(times, clock, 3.0, 20.0, 4.0)
    expected = {"data_wait_s": 2.0, "checkpoint_s": 0.0, "forward_backward_s": 15.0, "optimizer_s": 3.0}
    assert times.read() == pytest.approx(expected)
    with times.waiting("checkpoint_s"):
        clock.now += 7.0
    step(times, clock, 0.0, 10.0, 1.0)
    expected = {"data_wait_s": 0.0, "checkpoint_s": 7.0, "forward_backward_s": 10.0, "optimizer_s": 1.0}
    assert times.read() == pytest.approx(expected)


def test_without_a_step_nothing_is_known():
    assert set(StepTime(load_backend("cpu").device()).read().values()) == {None}


def test_a_step_that_failed_halfway_counts_as_far_as_it_came():
    clock = Clock()
    times = StepTime(Device(clock), clock)
    times.begin()
    clock.now += 5.0
    times.mark()
    values = times.read()
    assert values["forward_backward_s"] == pytest.approx(5.0)
    assert values["optimizer_s"] is None
