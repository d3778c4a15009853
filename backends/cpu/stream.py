"""Streams and events of a device whose work is done when its call returns: nothing waits, time is kept."""

from __future__ import annotations

import time
from typing import Any

from portable.core.errors import CapabilityError


class HostEvent:
    """A mark that is always reached."""

    def __init__(self, *, timing: bool = False) -> None:
        self._timing = timing
        self._set_at_s: float | None = None

    def record(self, stream: Any = None) -> None:  # Any: a HostStream
        """Remember the time."""
        self._set_at_s = time.perf_counter()

    def wait(self, stream: Any = None) -> None:  # Any: a HostStream
        """Return at once."""

    def synchronize(self) -> None:
        """Return at once."""

    def query(self) -> bool:
        """Return True."""
        return True

    def elapsed_time(self, end_event: Any) -> float:  # Any: a HostEvent
        """Return the milliseconds from this mark to ``end_event``.

        Raises: CapabilityError if one was not made with timing or not recorded.
        """
        return (end_event.seconds() - self.seconds()) * 1e3

    def seconds(self) -> float:
        """Return when the mark was set, by the clock of ``time.perf_counter``. Raises: CapabilityError."""
        if not self._timing:
            raise CapabilityError(
                "an event without timing was asked for its time; use new_event(timing=True)"
            )
        if self._set_at_s is None:
            raise CapabilityError(
                "an event that was not recorded was asked for its time; call record() first"
            )
        return self._set_at_s


class HostStream:
    """An order that always holds, since every call on the host finishes before the next begins."""

    def wait_stream(self, stream: Any) -> None:  # Any: a HostStream
        """Return at once."""

    def wait_event(self, event: Any) -> None:  # Any: a HostEvent
        """Return at once."""

    def record_event(self, event: Any = None) -> HostEvent:  # Any: a HostEvent or None
        """Set ``event``, or a new one, now."""
        mark = HostEvent() if event is None else event
        mark.record(self)
        return mark

    def synchronize(self) -> None:
        """Return at once."""
