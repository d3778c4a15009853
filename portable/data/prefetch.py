"""Batches made ahead of the step that needs them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from portable.core.errors import ConfigError
from portable.core.record import Batch
from portable.data.source import BatchSource, source_metrics


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A step's batches, and the source's position and numbers after it."""

    batches: Sequence[Batch]
    state: dict[str, Any]  # Any: a source's state
    metrics: dict[str, float]


class PrefetchSource:
    """Draws from ``source`` in a thread, ``depth`` optimiser steps ahead; a ``BatchSource``.

    Order and state are the source's own, as of what was *handed out*: a checkpoint knows nothing of what
    waits. An error comes at the step that it belongs to. The source must not depend on what a step does (no
    text sampled from the model that trains), nor draw from the process's random streams.
    """

    def __init__(self, source: BatchSource, depth: int = 2) -> None:
        if depth < 1:
            raise ConfigError(f"prefetch_batches={depth}; use 1 or more steps ahead")
        self.source = source
        self._depth = depth
        self._handed_out = _Ahead((), source.state_dict(), source_metrics(source))
        self._waiting: deque[Future[_Ahead]] = deque()
        self._thread: ThreadPoolExecutor | None = None  # one worker, so steps are drawn in order

    def next_batches(self) -> Sequence[Batch]:
        """Return this rank's micro-batches of the next optimiser step; wait for them if need be."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        while len(self._waiting) <= self._depth:
            self._waiting.append(self._thread.submit(self._draw))
        self._handed_out = self._waiting.popleft().result()
        return self._handed_out.batches

    def metrics(self) -> dict[str, float]:
        """Return the source's numbers as of what was handed out."""
        return self._handed_out.metrics

    def state_dict(self) -> dict[str, Any]:  # Any: the source's state
        """Return the position behind what was handed out."""
        return self._handed_out.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position; what waits is thrown away."""
        self.close()
        self.source.load_state_dict(state)
        self._handed_out = _Ahead((), self.source.state_dict(), source_metrics(self.source))

    def close(self) -> None:
        """End the thread and put the source back to what was handed out, from where it may go on."""
        if self._thread is None:
            return
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._thread = None
        self._waiting.clear()
        self.source.load_state_dict(self._handed_out.state)

    def _draw(self) -> _Ahead:
        batches = self.source.next_batches()
        return _Ahead(batches, self.source.state_dict(), source_metrics(self.source))
