"""Every schedule beside torch's own order of actions, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from torch.distributed.pipelining.schedules import get_schedule_class

from portable.core.errors import ConfigError
from portable.parallel.config import ParallelConfig
from portable.parallel.pipeline.schedule.select import SCHEDULES, make_schedule
from portable.parallel.pipeline.schedule.simulate import simulate
from portable.parallel.pipeline.schedule.table import Table

FIXED = {"GPipe": 1, "1F1B": 1, "ZBVZeroBubble": 2, "DualPipeV": 2}


def table(name: str, p: int, v: int, m: int) -> Table:
    config = ParallelConfig(
        pipeline_parallel_degree=p, pipeline_parallel_schedule=name, pipeline_parallel_stages_per_rank=v
    )
    return make_schedule(config).table(m)


def torch_rows(name: str, p: int, v: int, m: int) -> list[list[str]]:
    """Torch's compute actions without idle slots; its schedules need stages and a group, so only what makes
    the order is called."""
    schedule: Any = object.__new__(get_schedule_class(name))
    rounds = max(1, m // p)
    vars(schedule).update(
        _n_microbatches=m, pp_group_size=p, _num_stages=p * v, num_stages=p * v, n_local_stages=v,
        _stages=[None] * v, number_of_rounds=rounds, microbatches_per_round=m // rounds,
    )  # fmt: skip
    if name in ("GPipe", "1F1B"):
        order = schedule._get_pipeline_order()
    else:
        order = {}
        for schedule.rank in range(p):
            order[schedule.rank] = schedule._calculate_single_rank_operations(schedule.rank)
    flat = [[part for item in row if item for part in item.sub_actions or (item,)] for row in order.values()]
    return [[str(item) for item in row if item.computation_type.value in "FBIW"] for row in flat]


def legal(name: str, p: int, m: int) -> bool:
    """What torch itself takes."""
    if name == "DualPipeV":
        return m >= 2 * p
    return not name.startswith("Interleaved") or m % max(1, m // p) == 0


@pytest.mark.parametrize("name", SCHEDULES)
def test_rows_are_torchs(name: str) -> None:
    compared = 0
    for p in (1, 2, 3, 4, 7):
        for v in [FIXED[name]] if name in FIXED else [1, 2, 3]:
            for m in (1, 2, 3, 4, 5, 6, 8, 12, 14, 15):
                if not legal(name, p, m):
                    continue
                ours = [[str(action) for action in row] for row in table(name, p, v, m).rows]
                if name == "1F1B":  # torch's table has wrong numbers on the last rank, and below p - 1
                    ours = ours[:-1] if m >= p - 1 else []
                assert ours == torch_rows(name, p, v, m)[: len(ours)], (p, v, m)
                compared += 1
    assert compared > 20


def test_the_last_rank_of_1f1b_alternates() -> None:
    assert " ".join(map(str, table("1F1B", 2, 1, 3).rows[1])) == "1F0 1B0 1F1 1B1 1F2 1B2"


@pytest.mark.parametrize(
    ("name", "v", "bubble"),
    [
        ("GPipe", 1, lambda p, m: (p - 1) / (m + p - 1)),
        ("1F1B", 1, lambda p, m: (p - 1) / (m + p - 1)),
        ("Interleaved1F1B", 2, lambda p, m: (p - 1) / (2 * m + p - 1)),
        ("Interleaved1F1B", 3, lambda p, m: (p - 1) / (3 * m + p - 1)),
    ],
)
def test_bubbles_on_paper_are_the_papers(name: str, v: int, bubble: Any) -> None:
    for p, m in ((2, 4), (4, 8), (4, 12)):
        assert simulate(table(name, p, v, m)).bubble_fraction == pytest.approx(bubble(p, m))


def test_zero_bubble_schedules_are_idle_less() -> None:
    plain = simulate(table("1F1B", 4, 1, 8)).bubble_fraction
    for name, v in (("InterleavedZeroBubble", 1), ("ZBVZeroBubble", 2), ("DualPipeV", 2)):
        assert simulate(table(name, 4, v, 8)).bubble_fraction < 0.7 * plain, name


def test_1f1b_holds_fewer_activations_than_gpipe() -> None:
    assert simulate(table("GPipe", 4, 1, 8)).peak_activations == (8, 8, 8, 8)
    assert simulate(table("1F1B", 4, 1, 8)).peak_activations == (4, 3, 2, 1)


def test_names_are_read_in_any_case_and_stages_lie_as_the_schedule_says() -> None:
    def stages(name: str, **more: Any) -> list[list[int]]:
        schedule = make_schedule(
            ParallelConfig(pipeline_parallel_degree=2, pipeline_parallel_schedule=name, **more)
        )
        return [schedule.stages_of(rank) for rank in range(schedule.num_ranks)]

    assert stages("1f1b") == [[0], [1]]
    assert stages("interleaved1F1B") == [[0, 2], [1, 3]]
    assert stages("LoopedBFS", pipeline_parallel_layers_per_stage=[1] * 6) == [[0, 2, 4], [1, 3, 5]]
    assert stages("zbvzerobubble") == [[0, 3], [1, 2]]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"pipeline_parallel_schedule": "1F2B"}, "Did you mean '1F1B'"),
        ({"pipeline_parallel_stages_per_rank": 2}, "schedule 1F1B has 1 on each rank; use 1, or .*LoopedBFS"),
        ({"pipeline_parallel_stages_per_rank": -1}, "use 0"),
        (
            {"pipeline_parallel_schedule": "DualPipeV", "pipeline_parallel_stages_per_rank": 3},
            "DualPipeV has 2 on each rank",
        ),
        ({"pipeline_parallel_layers_per_stage": [2, 1, 1]}, "names 3 stages, but .* has 2; give 2 numbers"),
        ({"pipeline_parallel_schedule_csv": "/nowhere.csv"}, "cannot be read"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make_schedule(ParallelConfig(pipeline_parallel_degree=2, **settings))


@pytest.mark.parametrize(
    ("name", "m", "legal"),
    [
        ("Interleaved1F1B", 9, r"\[7, 8, 10, 12, 15, 16\]"),
        ("DualPipeV", 7, r"\[10, 11, 12, 13, 14, 15\]"),
        ("1F1B", 0, "a micro-batch"),
    ],
)
def test_numbers_of_micro_batches_that_do_not_fit_are_refused(name: str, m: int, legal: str) -> None:
    with pytest.raises(ConfigError, match=legal):
        table(name, 4, FIXED.get(name, 2), m)
