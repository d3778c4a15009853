"""From a table to what each rank does: its actions, and between them the phases in which tensors travel.

A phase is a moment of the table's timeline at which some action's result is ready to go. Phases have one
order for all ranks, and a rank begins those that concern it in that order, without waiting: a result sets out
as soon as it is there, and its receiver has a place for it before it needs it. What a phase carries depends
on earlier phases only, so no rank can wait for one that waits for it, on whatever communicator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from portable.parallel.pipeline.schedule.action import Action, Kind
from portable.parallel.pipeline.schedule.simulate import step_cost
from portable.parallel.pipeline.schedule.table import Table, timeline


@dataclass(frozen=True, slots=True, order=True)
class Message:
    """Hidden states that leave ``stage`` for the next one, or (``is_gradient``) the gradient of its input for
    the one before.
    """

    stage: int
    micro_batch: int
    is_gradient: bool

    @property
    def target_stage(self) -> int:
        """The stage that needs it."""
        return self.stage + (-1 if self.is_gradient else 1)


@dataclass(frozen=True, slots=True)
class Phase:
    """Messages that a rank sends and receives at one moment, each with the other rank."""

    sends: tuple[tuple[Message, int], ...]
    receives: tuple[tuple[Message, int], ...]


Step = Action | Phase


def lower(table: Table) -> list[list[Step]]:
    """Return the steps of every rank."""
    spans = timeline(table, step_cost)
    steps: list[list[tuple[float, int, Step]]] = [[] for _ in table.rows]
    moments: dict[float, list[Message]] = {}
    for span in spans:
        # A phase comes before the actions that begin with it, and after those that began earlier.
        steps[span.rank].append((span.start, 1, span.action))
        message = _message(table, span.action)
        if message is not None:
            moments.setdefault(span.end, []).append(message)
    for moment, messages in moments.items():
        for rank, own in enumerate(steps):
            phase = _phase(table, rank, sorted(messages))
            if phase.sends or phase.receives:
                own.append((moment, 0, phase))
    return [[step for _, _, step in sorted(own, key=lambda item: item[:2])] for own in steps]


def _message(table: Table, action: Action) -> Message | None:
    """Return what the action has to send to another rank."""
    if action.kind is Kind.weight_gradient:
        return None
    message = Message(action.stage, action.micro_batch, action.kind is not Kind.forward)
    if not 0 <= message.target_stage <= table.last_stage:
        return None
    leaves = table.stage_rank[message.target_stage] != table.stage_rank[message.stage]
    return message if leaves else None


def _phase(table: Table, rank: int, messages: Sequence[Message]) -> Phase:
    ranks = table.stage_rank
    return Phase(
        tuple((item, ranks[item.target_stage]) for item in messages if ranks[item.stage] == rank),
        tuple((item, ranks[item.stage]) for item in messages if ranks[item.target_stage] == rank),
    )
