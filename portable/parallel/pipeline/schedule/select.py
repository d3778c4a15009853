"""Which schedule the settings name, and whether it can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from portable.core.errors import ConfigError, did_you_mean
from portable.parallel.config import ParallelConfig
from portable.parallel.pipeline.schedule.action import Action
from portable.parallel.pipeline.schedule.file import read_table
from portable.parallel.pipeline.schedule.looped import (
    gpipe,
    interleaved,
    interleaved_zero_bubble,
    looped_bfs,
    one_forward_one_backward,
)
from portable.parallel.pipeline.schedule.table import Table, make_table
from portable.parallel.pipeline.schedule.v_shaped import dual_pipe_v, zbv_zero_bubble

Row = Callable[[int, int, int, int], list[Action]]


@dataclass(frozen=True, slots=True)
class _Rule:
    """How a schedule is made and what it asks: stages a rank (None: any number; ``default`` unless said),
    micro-batches.
    """

    row: Row
    stages: int | None
    default: int
    micro_batches: Callable[[int, int], bool] = lambda p, m: True
    because: str = ""
    v_shaped: bool = False


def _fills_rounds(p: int, m: int) -> bool:
    return m % max(1, m // p) == 0


_ROUNDS = "equal rounds of at least as many micro-batches as ranks, or one round"
_RULES = {
    "GPipe": _Rule(gpipe, 1, 1),
    "1F1B": _Rule(one_forward_one_backward, 1, 1),
    "Interleaved1F1B": _Rule(interleaved, None, 2, _fills_rounds, _ROUNDS),
    "LoopedBFS": _Rule(looped_bfs, None, 2),
    "InterleavedZeroBubble": _Rule(interleaved_zero_bubble, None, 2, _fills_rounds, _ROUNDS),
    "ZBVZeroBubble": _Rule(zbv_zero_bubble, 2, 2, v_shaped=True),
    "DualPipeV": _Rule(
        dual_pipe_v, 2, 2, lambda p, m: m >= 2 * p, "as many micro-batches as stages", v_shaped=True
    ),
}
SCHEDULES = tuple(_RULES)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule for as many ranks and stages as the settings say, for any number of micro-batches.

    ``stage_rank[stage]`` is the rank that holds it.
    """

    name: str
    stage_rank: tuple[int, ...]
    table: Callable[[int], Table]

    @property
    def num_ranks(self) -> int:
        """The ranks of the pipeline."""
        return max(self.stage_rank) + 1

    def stages_of(self, rank: int) -> list[int]:
        """Return the stages that ``rank`` holds, in their order."""
        return [stage for stage, holder in enumerate(self.stage_rank) if holder == rank]


def make_schedule(config: ParallelConfig) -> Schedule:
    """Return the schedule of ``pipeline_parallel_schedule``, or that of the CSV file.

    Raises: ConfigError, with the legal values, if it does not go with the ranks, stages and layers asked for;
    later, from ``table``, if it does not go with the number of micro-batches.
    """
    if config.pipeline_parallel_schedule_csv:
        return _from_file(config)
    asked = config.pipeline_parallel_schedule
    name = next((name for name in SCHEDULES if name.lower() == asked.lower()), None)
    if name is None:
        raise ConfigError(
            f"parallel.pipeline_parallel_schedule={asked} is unknown.{did_you_mean(asked, SCHEDULES)} Use "
            f"one of {', '.join(SCHEDULES)}, or parallel.pipeline_parallel_schedule_csv"
        )
    ranks = config.pipeline_parallel_degree
    rule = _RULES[name]
    per_rank = _stages_per_rank(config, name, rule)
    v_shaped = [*range(ranks), *reversed(range(ranks))]
    stage_rank = tuple(v_shaped) if rule.v_shaped else tuple(range(ranks)) * per_rank

    @lru_cache
    def table(num_micro_batches: int) -> Table:
        _check_micro_batches(name, rule, ranks, num_micro_batches)
        rows = [rule.row(rank, ranks, per_rank, num_micro_batches) for rank in range(ranks)]
        return make_table(f"schedule {name}", rows, num_micro_batches)

    return Schedule(name, stage_rank, table)


def _from_file(config: ParallelConfig) -> Schedule:
    path = config.pipeline_parallel_schedule_csv
    read = read_table(Path(path))
    if len(read.rows) != config.pipeline_parallel_degree:
        raise ConfigError(
            f"parallel.pipeline_parallel_schedule_csv={path} has rows for {len(read.rows)} ranks; use "
            f"parallel.pipeline_parallel_degree={len(read.rows)}, or a file with "
            f"{config.pipeline_parallel_degree} rows"
        )
    _check_stage_count(config, str(path), len(read.stage_rank))

    def table(num_micro_batches: int) -> Table:
        if num_micro_batches != read.num_micro_batches:
            raise ConfigError(
                f"parallel.pipeline_parallel_schedule_csv={path} is a schedule for {read.num_micro_batches} "
                f"micro-batches, but a step has {num_micro_batches}; accumulate {read.num_micro_batches}, or "
                "use another file"
            )
        return read

    return Schedule(path, read.stage_rank, table)


def _stages_per_rank(config: ParallelConfig, name: str, rule: _Rule) -> int:
    ranks, layers = config.pipeline_parallel_degree, config.pipeline_parallel_layers_per_stage
    asked = config.pipeline_parallel_stages_per_rank
    if asked < 0:
        raise ConfigError(
            f"parallel.pipeline_parallel_stages_per_rank={asked}; use 0 (what the schedule needs) or more"
        )
    if not asked and rule.stages is None and layers and len(layers) % ranks == 0:
        asked = len(layers) // ranks
    per_rank = asked or rule.default
    if rule.stages not in (None, per_rank):
        raise ConfigError(
            f"parallel.pipeline_parallel_stages_per_rank={per_rank}, but schedule {name} has {rule.stages} "
            f"on each rank; use {rule.stages}, or a schedule that takes any number: "
            f"{', '.join(other for other, its in _RULES.items() if its.stages is None)}"
        )
    _check_stage_count(config, name, ranks * per_rank)
    return per_rank


def _check_stage_count(config: ParallelConfig, name: str, stages: int) -> None:
    layers = config.pipeline_parallel_layers_per_stage
    if layers and len(layers) != stages:
        raise ConfigError(
            f"parallel.pipeline_parallel_layers_per_stage={list(layers)} names {len(layers)} stages, but "
            f"schedule {name} on {config.pipeline_parallel_degree} ranks has {stages}; give {stages} numbers"
        )


def _check_micro_batches(name: str, rule: _Rule, ranks: int, count: int) -> None:
    if count < 1 or not rule.micro_batches(ranks, count):
        near = range(1, count + 2 * ranks + 1)
        legal = [n for n in near if rule.micro_batches(ranks, n)][-6:]
        raise ConfigError(
            f"schedule {name} on {ranks} ranks needs {rule.because or 'a micro-batch'}, but a step has "
            f"{count}; accumulate e.g. one of {legal}, or use schedule 1F1B, which takes any number"
        )
