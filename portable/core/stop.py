"""Signals that ask a process to end: noted, so that it may save its state first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

# What Slurm is told to send before it takes a machine back, and what all others send.
STOP_SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], object] | int | None


class StopRequest:
    """While entered, notes the stop signals of this process instead of ending it.

    ``on_request`` is called with each. Only a main thread can take signals: elsewhere none is ever noted.
    """

    def __init__(self, on_request: Callable[[signal.Signals], object] | None = None) -> None:
        self.received: list[signal.Signals] = []
        self._on_request = on_request
        self._previous: dict[signal.Signals, Handler] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def hand_back(self) -> None:
        """Give what was noted to the handlers that stood before; call it after leaving."""
        for number in self.received:
            handler = self._previous.get(number)
            if callable(handler):
                handler(number, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received.append(signal.Signals(number))
        if self._on_request is not None:
            self._on_request(self.received[-1])
