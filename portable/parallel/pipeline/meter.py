"""How much of a step a rank of a pipeline is idle."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from portable.collective.protocol import Group
from portable.device.stream import Event


class BubbleMeter:
    """Marks in the device's work where it waits for other ranks; on a device that works with the host, the
    host's clock. Only the last step is kept. Nothing here lets the host wait, but reading.

    ``new_event`` makes an event with timing.
    """

    def __init__(self, new_event: Callable[[], Event], group: Group) -> None:
        self._new_event = new_event
        self._group = group
        self._step: list[Event] = []
        self._waits: list[tuple[Event, Event]] = []

    def begin(self) -> None:
        """Begin a step."""
        self._step, self._waits = [self._mark()], []

    @contextmanager
    def waiting(self) -> Generator[None]:
        """Surround a wait for another rank; between steps it does not count."""
        before = self._mark()
        yield
        if len(self._step) == 1:
            self._waits.append((before, self._mark()))

    def end(self) -> None:
        """End the step."""
        self._step.append(self._mark())

    def own_fraction(self) -> float | None:
        """Return the share of the last step that this rank waited; None before a step is done."""
        if len(self._step) < 2:
            return None
        begin, end = self._step
        end.synchronize()
        waited = sum(before.elapsed_time(after) for before, after in self._waits)
        return waited / begin.elapsed_time(end)

    def fraction(self) -> float | None:
        """Return its mean over the pipeline's ranks, which all must call."""
        own = self.own_fraction()
        return None if own is None else self._group.sum_scalar(own) / self._group.size

    def _mark(self) -> Event:
        event = self._new_event()
        event.record()
        return event
