"""Plans keep every rank's order, carry every tensor once, and let no rank wait for ever."""

from __future__ import annotations

import pytest

from portable.parallel.config import ParallelConfig
from portable.parallel.pipeline.plan import Message, Phase, Step, lower
from portable.parallel.pipeline.schedule.action import Action, Kind
from portable.parallel.pipeline.schedule.select import SCHEDULES, make_schedule


class Rank:
    """Goes through its steps on the strictest transport: a phase ends when all of it has travelled."""

    def __init__(self, steps: list[Step]) -> None:
        self.steps = steps
        self.open: set[Message] = set()
        self.received: set[Message] = set()
        self.place = -1
        self.go_on()

    def go_on(self) -> None:
        self.place += 1
        head = self.head
        if isinstance(head, Phase):
            self.open = {message for message, _ in (*head.sends, *head.receives)}

    @property
    def head(self) -> Step | None:
        return self.steps[self.place] if self.place < len(self.steps) else None


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("p", "m"), [(1, 2), (2, 4), (4, 8), (3, 6)])
def test_the_end_is_reached_even_if_every_exchange_blocks(name: str, p: int, m: int) -> None:
    config = ParallelConfig(pipeline_parallel_degree=p, pipeline_parallel_schedule=name)
    table = make_schedule(config).table(m)
    plans = lower(table)
    assert [[step for step in plan if isinstance(step, Action)] for plan in plans] == [*map(list, table.rows)]
    ranks, num_sent = [Rank(plan) for plan in plans], 0
    while any(rank.head for rank in ranks):
        before = [(rank.place, len(rank.open)) for rank in ranks]
        for number, rank in enumerate(ranks):
            head = rank.head
            if isinstance(head, Action):
                for need in table.needs(head):
                    if table.stage_rank[need.stage] != number:
                        is_gradient = head.kind is not Kind.forward
                        assert Message(need.stage, need.micro_batch, is_gradient) in rank.received
                rank.go_on()
            elif isinstance(head, Phase):
                for message, peer in head.sends:
                    if message in rank.open & ranks[peer].open:
                        rank.open.discard(message)
                        ranks[peer].open.discard(message)
                        ranks[peer].received.add(message)
                        num_sent += 1
                if not rank.open:
                    rank.go_on()
        assert [(rank.place, len(rank.open)) for rank in ranks] != before, "every rank waits"
    boundaries = sum(a != b for a, b in zip(table.stage_rank, table.stage_rank[1:], strict=False))
    assert num_sent == 2 * m * boundaries
