"""Schedules that place stages r and 2p - 1 - r on rank r, so that a micro-batch goes down the ranks and comes
back: the first rank also has the loss.

Each function returns the row of ``rank``; p ranks hold two stages each and have m micro-batches.
"""

from __future__ import annotations

from portable.parallel.pipeline.schedule.action import Action, Kind


class _Row:
    """Writes a row. A stage takes its micro-batches in order, so that only stages need to be named."""

    def __init__(self) -> None:
        self.actions: list[Action] = []
        self._next: dict[tuple[int, Kind], int] = {}
        self._put_off: list[tuple[int, int]] = []

    def forward(self, stage: int) -> None:
        self.actions.append(Action(stage, Kind.forward, self._count(stage, Kind.forward)))

    def backward(self, stage: int) -> None:
        self.actions.append(Action(stage, Kind.backward, self._count(stage, Kind.backward)))

    def input_gradient(self, stage: int) -> None:
        micro_batch = self._count(stage, Kind.backward)
        self._put_off.append((stage, micro_batch))
        self.actions.append(Action(stage, Kind.input_gradient, micro_batch))

    def weight_gradient(self, *stages: int) -> None:
        """The oldest that was put off, of ``stages`` if they are named; nothing if there is none."""
        late = next((pair for pair in self._put_off if not stages or pair[0] in stages), None)
        if late is not None:
            self._put_off.remove(late)
            self.actions.append(Action(late[0], Kind.weight_gradient, late[1]))

    def done(self, stage: int, kind: Kind) -> int:
        return self._next.get((stage, kind), 0)

    def _count(self, stage: int, kind: Kind) -> int:
        micro_batch = self.done(stage, kind)
        self._next[stage, kind] = micro_batch + 1
        return micro_batch


def zbv_zero_bubble(rank: int, p: int, v: int, m: int) -> list[Action]:
    """No idle time but at the ends if forward, input and weight gradient take equally long, with the memory
    of 1F1B.

    Source: Qi et al. 2023, arXiv:2401.10241, section 6.
    """
    down, up, row = rank, 2 * p - 1 - rank, _Row()
    full = max(m, 2 * p - 1)  # a shorter pipeline is this one, less the micro-batches that are not there
    for _ in range(2 * (p - rank) - 1):
        row.forward(down)
    for _ in range(rank):
        row.forward(up)
        row.forward(down)
    for _ in range(p - rank):
        _forward_and_back(row, up, up)
    while row.done(up, Kind.forward) < full:
        _forward_and_back(row, down if row.done(down, Kind.forward) < full else None, down)
        _forward_and_back(row, up, up)
    for _ in range(rank):
        row.input_gradient(down)
        row.input_gradient(up)
    for _ in range(p - rank):
        row.input_gradient(down)
        row.weight_gradient(down)
    for stage, count in ((up, rank), (down, rank)):
        for _ in range(count):
            row.weight_gradient(stage)
    return [action for action in row.actions if action.micro_batch < m]


def _forward_and_back(row: _Row, ahead: int | None, back: int) -> None:
    if ahead is not None:
        row.forward(ahead)
    row.input_gradient(back)
    row.weight_gradient(back)


def dual_pipe_v(rank: int, p: int, v: int, m: int) -> list[Action]:
    """Both directions at once: a forward of one stage beside a backward of the other; weight gradients are
    put off where that fills a gap.

    Source: DeepSeek-AI 2024, arXiv:2412.19437, section 3.2.1, and its V-shaped half
    (github.com/deepseek-ai/DualPipe), whose eight phases are those below.
    """
    down, up, row, left = rank, 2 * p - 1 - rank, _Row(), p - 1 - rank
    for _ in range(2 * left):
        row.forward(down)
    for _ in range(rank + 1):
        row.forward(down)
        row.forward(up)
    for _ in range(left):
        row.input_gradient(up)
        row.weight_gradient()
        row.forward(up)
    for _ in range(m - 2 * p + rank + 1):
        row.forward(down)
        row.backward(up)
        row.forward(up)
        row.backward(down)
    for _ in range(left):
        row.backward(up)
        row.forward(up)
        row.backward(down)
    # The second half of what is left puts weight gradients off.
    for place in range(2 * (rank + 1)):
        stage = down if place % 2 else up
        (row.input_gradient if place > rank else row.backward)(stage)
    for _ in range(left):
        row.weight_gradient()
        row.input_gradient(down)
    for _ in range(rank + 1):
        row.weight_gradient()
    return row.actions
