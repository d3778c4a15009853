"""Where the time of a step goes: waiting for data, forward and backward, the optimiser, saving."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from portable.device.protocol import Device
from portable.device.stream import Event

WAITS = ("data_wait_s", "checkpoint_s")  # by the host's clock
PARTS = ("forward_backward_s", "optimizer_s")  # between the marks of a step, in this order


class StepTime:
    """Means over the steps since the last reading, in seconds a step.

    What the host waits for is by the host's clock. The device's work is between marks in its stream, so the
    host never waits for it here; ``read`` does, for what it reads.
    """

    def __init__(self, device: Device, clock: Callable[[], float] = time.perf_counter) -> None:
        self._device = device
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """Forget what has been measured."""
        self._waited_s: dict[str, float] = dict.fromkeys(WAITS, 0.0)
        self._steps: list[list[Event]] = []

    @contextmanager
    def waiting(self, name: str) -> Generator[None]:
        """Count the block under ``name``, one of ``WAITS``."""
        start = self._clock()
        yield
        self._waited_s[name] += self._clock() - start

    def begin(self) -> None:
        """Mark the start of a step's work."""
        self._steps.append([])
        self.mark()

    def mark(self) -> None:
        """Mark the end of a part."""
        event = self._device.new_event(timing=True)
        event.record()
        self._steps[-1].append(event)

    def read(self) -> dict[str, float | None]:
        """Return the means by name, and begin anew; None of what no step has done.

        A save comes after the reading of its step, so its time is in the next.
        """
        num_steps = len(self._steps)
        values: dict[str, float | None] = {
            name: seconds / num_steps if num_steps else None for name, seconds in self._waited_s.items()
        }
        for place, name in enumerate(PARTS):
            pairs = [events[place : place + 2] for events in self._steps if len(events) > place + 1]
            for _, end in pairs:
                end.synchronize()
            total_ms = sum(start.elapsed_time(end) for start, end in pairs)
            values[name] = total_ms / 1000 / len(pairs) if pairs else None
        self.restart()
        return values
