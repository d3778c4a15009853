"""Every schedule's timeline, from the tables that training runs."""

from __future__ import annotations

from ci.pictures.canvas import Canvas
from portable.parallel.config import ParallelConfig
from portable.parallel.pipeline.schedule.action import Action, Kind
from portable.parallel.pipeline.schedule.select import SCHEDULES, make_schedule
from portable.parallel.pipeline.schedule.simulate import simulate, step_cost
from portable.parallel.pipeline.schedule.table import timeline

NUM_RANKS, NUM_MICRO_BATCHES = 4, 8
_FILL = {
    Kind.forward: "r0",
    Kind.backward: "r1",
    Kind.input_gradient: "r2",
    Kind.weight_gradient: "grey",
}
_WORD = {
    Kind.forward: "forward",
    Kind.backward: "backward, both gradients",
    Kind.input_gradient: "input gradient",
    Kind.weight_gradient: "weight gradient",
}
_LEFT, _UNIT, _ROW = 64, 26.5, 21


def pipeline() -> Canvas:
    """All schedules on one scale of time: a model's forward pass takes a rank as long in each."""
    canvas = Canvas(
        44 + len(SCHEDULES) * 128,
        "Timelines of the pipeline schedules on four ranks with eight micro-batches",
    )
    x = _LEFT
    for kind, word in _WORD.items():
        canvas.box(x, 10, 16, 16, _FILL[kind])
        canvas.text(x + 22, 23, word, "small left")
        x += 52 + 6.4 * len(word)
    canvas.text(x, 23, "underlined: a rank’s second stage", "small left")
    for place, name in enumerate(SCHEDULES):
        _schedule(canvas, name, 48 + place * 128)
    return canvas


def _schedule(canvas: Canvas, name: str, top: float) -> None:
    schedule = make_schedule(
        ParallelConfig(pipeline_parallel_degree=NUM_RANKS, pipeline_parallel_schedule=name)
    )
    table = schedule.table(NUM_MICRO_BATCHES)
    stages = len(schedule.stage_rank) // NUM_RANKS

    def cost(action: Action) -> float:
        return step_cost(action) / stages  # the layers are divided over as many more stages

    forecast = simulate(table, cost)
    where = " | ".join(" ".join(map(str, schedule.stages_of(rank))) for rank in range(NUM_RANKS))
    canvas.text(_LEFT, top + 14, name, "bold left")
    canvas.text(
        _LEFT + 176,
        top + 14,
        f"idle {forecast.bubble_fraction:.1%}; a rank holds at most "
        f"{max(forecast.peak_activations) / stages:g} micro-batches’ activations; stages by rank: {where}",
        "small left",
    )
    for rank in range(NUM_RANKS):
        y = top + 22 + rank * _ROW
        canvas.text(_LEFT - 8, y + 14, f"rank {rank}", "small right")
        canvas.box(_LEFT, y, forecast.makespan * _UNIT, _ROW - 2, "idle")
    for span in timeline(table, cost):
        second = schedule.stages_of(span.rank).index(span.action.stage)
        y = top + 22 + span.rank * _ROW
        x, width = _LEFT + span.start * _UNIT, (span.end - span.start) * _UNIT - 0.8
        canvas.box(x, y, width, _ROW - 2, _FILL[span.action.kind])
        if second:
            canvas.box(x + 1.5, y + _ROW - 5.5, width - 3, 2, "mark")
        canvas.text(x + width / 2, y + 14, str(span.action.micro_batch), "on")
