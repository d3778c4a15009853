"""The meter counts waits within a step, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from portable.collective.local import LocalGroup
from portable.parallel.pipeline.meter import BubbleMeter


class Tick:
    """An event of a clock that moves by one with every mark."""

    now = 0.0

    def __init__(self) -> None:
        self.at = 0.0

    def record(self, stream: Any = None) -> None:
        Tick.now += 1.0
        self.at = Tick.now

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end_event: Any) -> float:
        return end_event.at - self.at


def test_the_fraction_is_waiting_over_all_of_the_last_step() -> None:
    meter = BubbleMeter(Tick, LocalGroup())  # pyright: ignore[reportArgumentType]
    assert meter.fraction() is None
    for waits in (3, 2):
        meter.begin()
        for _ in range(waits):
            with meter.waiting():
                pass
        meter.end()
    with meter.waiting():  # an evaluation
        pass
    assert meter.fraction() == pytest.approx(2 / 5)
