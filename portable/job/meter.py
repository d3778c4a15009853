"""Time and memory of a stage, worker processes included."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

import psutil

_PERIOD_S = 0.1


class Meter:
    """Measures the time and memory of a ``with`` block.

    ``time_s`` is by the wall clock; ``peak_memory_bytes`` is the greatest resident size seen of this process
    and its children together, looked at ten times a second.
    """

    def __init__(self) -> None:
        self.time_s = 0.0
        self.peak_memory_bytes = 0
        self._process = psutil.Process()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._start = time.perf_counter()
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self._look()
        self.time_s = time.perf_counter() - self._start

    def _watch(self) -> None:
        while not self._done.wait(_PERIOD_S):
            self._look()

    def _look(self) -> None:
        total = 0
        try:
            for process in (self._process, *self._process.children(recursive=True)):
                total += process.memory_info().rss
        except (
            psutil.NoSuchProcess
        ):  # a child ended between the listing and the look; the next look counts again
            pass
        self.peak_memory_bytes = max(self.peak_memory_bytes, total)
