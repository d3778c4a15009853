"""Order among the work of a device. The names are those of torch's own streams and events, which fit as they
are."""

from __future__ import annotations

from typing import Any, Protocol


class Event(Protocol):
    """A mark in a stream's work. Torch's own events of a device fit; so do the CPU's, where nothing waits."""

    def record(self, stream: Any = None) -> None:  # Any: a Stream of the same device
        """Set the mark behind what ``stream`` (by default the current one) has queued."""
        ...

    def wait(self, stream: Any = None) -> None:  # Any: a Stream of the same device
        """Let what ``stream`` queues from now on wait for the mark."""
        ...

    def synchronize(self) -> None:
        """Let the host wait for the mark."""
        ...

    def query(self) -> bool:
        """Return whether the work before the mark is done."""
        ...

    def elapsed_time(self, end_event: Any) -> float:  # Any: an Event of the same device
        """Return the milliseconds from this mark to ``end_event``; both must have been made with timing."""
        ...


class Stream(Protocol):
    """Work that a device does in order. Different streams know no order but what events give them."""

    def wait_stream(self, stream: Any) -> None:  # Any: a Stream of the same device
        """Let what is queued here from now on wait for all that ``stream`` has queued."""
        ...

    def wait_event(self, event: Any) -> None:  # Any: an Event of the same device
        """Let what is queued here from now on wait for the mark."""
        ...

    def record_event(self, event: Any = None) -> Event:  # Any: an Event of the same device
        """Set a mark behind what is queued here, and return it."""
        ...

    def synchronize(self) -> None:
        """Let the host wait for all that is queued here."""
        ...
