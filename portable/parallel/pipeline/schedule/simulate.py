"""What a schedule costs before it is run: time, idle time, memory."""

from __future__ import annotations

from dataclasses import dataclass

from portable.parallel.pipeline.schedule.action import Action, Kind
from portable.parallel.pipeline.schedule.table import Cost, Table, timeline


@dataclass(frozen=True, slots=True)
class Forecast:
    """``makespan`` is in the unit of the costs, ``bubble_fraction`` the share of it that ranks are idle, in
    the mean. ``peak_activations[rank]`` counts the micro-batches, stage by stage, whose activations it holds
    at once.
    """

    makespan: float
    bubble_fraction: float
    peak_activations: tuple[int, ...]


def step_cost(action: Action) -> float:
    """Return the usual estimate: each of the two gradients takes as long as the forward pass."""
    return 2.0 if action.kind is Kind.backward else 1.0


def simulate(table: Table, cost: Cost = step_cost, *, transfer: float = 0.0) -> Forecast:
    """Run the table on paper; ``transfer`` is what a tensor needs to another rank."""
    spans = timeline(table, cost, transfer=transfer)
    makespan = max(span.end for span in spans)
    busy = sum(span.end - span.start for span in spans)
    idle = 1.0 - busy / (makespan * len(table.rows)) if makespan else 0.0
    return Forecast(makespan, idle, tuple(_peak(row) for row in table.rows))


def _peak(row: tuple[Action, ...]) -> int:
    held = peak = 0
    for action in row:
        if action.kind is Kind.forward:
            held += 1
        elif action.kind in (Kind.backward, Kind.weight_gradient):
            held -= 1
        peak = max(peak, held)
    return peak
