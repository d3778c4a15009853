"""A pipeline schedule as a table, and the proof that it can be run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from portable.core.errors import ConfigError
from portable.parallel.pipeline.schedule.action import Action, Kind

Cost = Callable[[Action], float]
"""How long an action takes, in any unit."""


@dataclass(frozen=True, slots=True)
class Span:
    """When a rank does an action; ``place`` counts within its row."""

    rank: int
    place: int
    action: Action
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Table:
    """``rows[rank]`` are that rank's actions in order; ``stage_rank[stage]`` is the rank that holds it.

    ``origin`` names the table in errors. Made by ``make_table``, which checks it.
    """

    origin: str
    rows: tuple[tuple[Action, ...], ...]
    stage_rank: tuple[int, ...]
    num_micro_batches: int

    @property
    def last_stage(self) -> int:
        """The stage that computes the loss."""
        return len(self.stage_rank) - 1

    @property
    def splits_backward(self) -> bool:
        """Whether weight gradients are put off, to fill what would be idle time."""
        return any(action.kind is Kind.weight_gradient for row in self.rows for action in row)

    def needs(self, action: Action) -> Iterator[Action]:
        """Yield what must be done before; an input gradient stands for a whole backward, too."""
        stage, kind, micro_batch = action.stage, action.kind, action.micro_batch
        if kind is Kind.forward and stage > 0:
            yield Action(stage - 1, Kind.forward, micro_batch)
        if kind in (Kind.backward, Kind.input_gradient):
            yield Action(stage, Kind.forward, micro_batch)
            if stage < self.last_stage:
                yield Action(stage + 1, Kind.input_gradient, micro_batch)
        if kind is Kind.weight_gradient:
            yield Action(stage, Kind.input_gradient, micro_batch)


def make_table(origin: str, rows: Sequence[Sequence[Action]], num_micro_batches: int | None = None) -> Table:
    """Return the checked table; ``num_micro_batches`` is that of the actions unless given.

    Raises: ConfigError, naming row and action, if an action is missing, done twice, on two ranks, before
    what it needs, or if the ranks would wait for each other for ever.
    """
    actions = [action for row in rows for action in row]
    if not actions or not all(rows):
        empty = next((rank for rank, row in enumerate(rows) if not row), 0)
        raise ConfigError(f"{origin}: row {empty} has no action; give every rank a row of actions")
    found = max(action.micro_batch for action in actions) + 1
    count = found if num_micro_batches is None else num_micro_batches
    stage_rank = _place_stages(origin, rows)
    table = Table(origin, tuple(tuple(row) for row in rows), stage_rank, count)
    _check_complete(table)
    timeline(table)
    return table


def timeline(table: Table, cost: Cost = lambda action: 1.0, *, transfer: float = 0.0) -> list[Span]:
    """Return when every action runs if each starts as soon as its rank is free and what it needs has come;
    what comes from another rank takes ``transfer`` longer.

    Raises: ConfigError, naming rows and actions, if the ranks would wait for each other for ever.
    """
    ends: dict[Action, float] = {}
    spans: list[Span] = []
    free = [0.0] * len(table.rows)
    places = [0] * len(table.rows)
    moved = True
    while moved:
        moved = False
        for rank, row in enumerate(table.rows):
            while places[rank] < len(row):
                action = row[places[rank]]
                needed = list(table.needs(action))
                if any(need not in ends for need in needed):
                    break
                arrivals = [
                    ends[need] + (transfer if table.stage_rank[need.stage] != rank else 0.0)
                    for need in needed
                ]
                start = max([free[rank], *arrivals])
                free[rank] = ends[action] = start + cost(action)
                if action.kind is Kind.backward:
                    ends[Action(action.stage, Kind.input_gradient, action.micro_batch)] = free[rank]
                spans.append(Span(rank, places[rank], action, start, free[rank]))
                places[rank] += 1
                moved = True
    _check_finished(table, places, ends)
    return spans


def _place_stages(origin: str, rows: Sequence[Sequence[Action]]) -> tuple[int, ...]:
    rank_of: dict[int, int] = {}
    for rank, row in enumerate(rows):
        for action in row:
            if rank_of.setdefault(action.stage, rank) != rank:
                raise ConfigError(
                    f"{origin}: row {rank} has {action}, but stage {action.stage} is on row "
                    f"{rank_of[action.stage]}; a stage belongs to one rank"
                )
    missing = [stage for stage in range(max(rank_of) + 1) if stage not in rank_of]
    if missing:
        raise ConfigError(
            f"{origin}: stage {missing[0]} does nothing, but stage {max(rank_of)} is there; number stages "
            f"from 0 without gaps"
        )
    return tuple(rank_of[stage] for stage in range(len(rank_of)))


def _check_complete(table: Table) -> None:
    """Refuse an action that comes twice, is missing, or gives a gradient that another one gives, too."""
    seen: dict[Action, int] = {}
    for rank, row in enumerate(table.rows):
        for action in row:
            if action in seen:
                raise ConfigError(
                    f"{table.origin}: row {rank} has {action} twice; a stage does it once a micro-batch"
                )
            if action.micro_batch >= table.num_micro_batches:
                raise ConfigError(
                    f"{table.origin}: row {rank} has {action}, but there are {table.num_micro_batches} "
                    f"micro-batches; the last is {table.num_micro_batches - 1}"
                )
            seen[action] = rank
    for stage, rank in enumerate(table.stage_rank):
        for micro_batch in range(table.num_micro_batches):
            forward, whole, inputs, weights = (Action(stage, kind, micro_batch) for kind in Kind)
            halves = [half for half in (inputs, weights) if half in seen]
            if forward not in seen:
                raise ConfigError(f"{table.origin}: row {rank} lacks {forward}; add it")
            if whole in seen and halves:
                raise ConfigError(
                    f"{table.origin}: row {rank} has {whole} and {halves[0]}, which give the same gradient "
                    "twice; keep the one or the other"
                )
            if whole not in seen and len(halves) < 2:
                lacking = weights if inputs in seen else inputs
                alternative = "" if halves else f" and {weights}, or {whole}"
                raise ConfigError(f"{table.origin}: row {rank} lacks {lacking}{alternative}; add it")


def _check_finished(table: Table, places: Sequence[int], ends: dict[Action, float]) -> None:
    stuck = []
    for rank, row in enumerate(table.rows):
        if places[rank] < len(row):
            action = row[places[rank]]
            need = next(need for need in table.needs(action) if need not in ends)
            where = table.stage_rank[need.stage]
            whole = f"{need.stage}B{need.micro_batch} or its half "
            word = (whole if need.kind is Kind.input_gradient else "") + str(need)
            stuck.append(
                f"row {rank} stops before action {places[rank]} ({action}), which needs {word} of row {where}"
            )
    if stuck:
        raise ConfigError(
            f"{table.origin} cannot be run: {'; '.join(stuck)}. Put an action behind what it needs"
        )
