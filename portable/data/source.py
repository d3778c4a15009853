"""Where the trainer gets its batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from portable.core.record import Batch


class BatchSource(Protocol):
    """Hands out the micro-batches of one optimiser step at a time, for ever, and can say where it stands.

    A source that is given back its ``state_dict`` continues with the very next step, on any world size that
    the source supports: positions are global sample indices.
    """

    def next_batches(self) -> Sequence[Batch]:
        """Return this rank's micro-batches of the next optimiser step, on the host."""
        ...

    def state_dict(self) -> dict[str, Any]:  # Any: picklable values and tensors
        """Return the position."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:  # Any: as in state_dict
        """Go to a position."""
        ...


@runtime_checkable
class ReportsMetrics(Protocol):
    """A source with numbers to record beside the loss."""

    def metrics(self) -> dict[str, float]:
        """Return them as of what was handed out, the same on every rank."""
        ...


def source_metrics(source: BatchSource) -> dict[str, float]:
    """Return what ``source`` has to report, which may be nothing."""
    return source.metrics() if isinstance(source, ReportsMetrics) else {}
