"""The figures of the report, each made from the detail of one stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from portable.job.report.chart import Axes, Curve, Interval, Level, interval_track, line_chart, scale_ticks
from portable.job.report.scale import Scale, fit_scale, smooth

Rows = Sequence[Mapping[str, float | None]]
_TONES = ("base", "sft", "rl", "other")
_SMOOTHING = 0.02  # reach of a smoothed curve to each side, as a share of its length


def tone_of(name: str, index: int = 3) -> str:
    """Return the colour class of a model: its own if the page knows the name, else that of its place."""
    return "tone-" + (name if name in _TONES else _TONES[min(index, len(_TONES) - 1)])


def loss_chart(rows: Rows, tone: str) -> Markup:
    """Return the training loss: every logged step faint, its smoothed course strong."""
    points = column(rows, "loss")
    if len(points) < 2:
        return Markup("")
    smoothed = smooth([value for _, value in points], round(_SMOOTHING * len(points)))
    course = [(step, value) for (step, _), value in zip(points, smoothed, strict=True)]
    curves = [Curve(points, tone_of(tone), faint=True), Curve(course, tone_of(tone), f"{smoothed[-1]:.2f}")]
    return line_chart(
        curves, Axes("optimiser step", "training loss, nats per token"), title="Training loss over steps"
    )


def bits_chart(rows: Rows, summary: Mapping[str, Any]) -> Markup:
    """Return held-out bits per byte over steps beside the baselines; empty below two evaluations."""
    points = column(rows, "heldout_bits_per_byte")
    if len(points) < 2:
        return Markup("")
    levels = [Level(value, label) for label, value in baselines(summary)]
    curve = Curve(points, tone_of("base"), f"model {points[-1][1]:.2f}", dots=len(points) <= 30)
    axes = Axes("optimiser step", "bits per byte of held-out text", include=(0.0,))
    return line_chart([curve], axes, levels, title="Held-out bits per byte over steps")


def bits_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:  # Any: values of a template
    """Return model and baselines on one axis: what is shown where the way there was not measured."""
    values = [(label, value, "tone-quiet") for label, value in _baseline_values(summary)]
    if summary.get("bits_per_byte") is not None:
        values.append(("model", summary["bits_per_byte"], tone_of("base")))
    scale = fit_scale((value for _, value, _ in values), include=(0.0,))
    return [
        {
            "model": label,
            "track": interval_track(Interval(value, None, None, tone), scale),
            "value": f"{value:.3f}",
        }
        for label, value, tone in values
    ]


def baselines(summary: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return what the summary holds of the two baselines, with their names."""
    return [(f"{label} {value:.2f}", value) for label, value in _baseline_values(summary)]


def _baseline_values(summary: Mapping[str, Any]) -> list[tuple[str, float]]:
    known = (("byte counts", "unigram_bits_per_byte"), ("xz -9", "xz_bits_per_byte"))
    return [(label, summary[key]) for label, key in known if summary.get(key) is not None]


def reward_chart(seeds: Sequence[Mapping[str, Any]]) -> Markup:
    """Return one reward curve a seed: each smoothed, with the raw rollouts faint behind it."""
    curves: list[Curve] = []
    for index, seed in enumerate(seeds):
        points = [(float(number), reward) for number, reward in enumerate(seed["reward"], start=1)]
        smoothed = smooth([reward for _, reward in points], round(_SMOOTHING * len(points)))
        course = [(number, value) for (number, _), value in zip(points, smoothed, strict=True)]
        curves += [
            Curve(points, f"tone-seed-{index % 3}", faint=True),
            Curve(course, f"tone-seed-{index % 3}", f"seed {seed['seed']}"),
        ]
    axes = Axes("rollout", "mean reward of sampled answers", y_limits=(0.0, 1.0))
    return line_chart(curves, axes, title="Reward over rollouts, all seeds")


def kl_chart(seeds: Sequence[Mapping[str, Any]]) -> Markup:
    """Return how far each seed's policy went from its start; empty where nobody measured it.

    One rare token can make the estimate leap far above all others, so the axis ends at twice the 95th
    percentile.
    """
    known = sorted(value for seed in seeds for value in seed.get("kl") or [] if value is not None)
    ceiling = 2 * known[int(0.95 * (len(known) - 1))] if known else 0.0
    curves = [
        Curve(
            [
                (float(step), min(value, ceiling))
                for step, value in enumerate(seed.get("kl") or [], start=1)
                if value is not None
            ],
            f"tone-seed-{index % 3}",
            f"seed {seed['seed']}",
        )
        for index, seed in enumerate(seeds)
    ]
    axes = Axes("optimiser step", "KL to the starting policy, nats per token", include=(0.0,))
    return line_chart(curves, axes, title="KL divergence over steps")


def task_scale(task: Mapping[str, Any]) -> Scale:
    """Return one axis for all models of a task: 0 to 1 for shares, from 0 to what is needed for the rest."""
    scores = task["scores"].values()
    reach = [
        value
        for score in scores
        for value in (score["value"], score["low"], score["high"])
        if value is not None
    ]
    return fit_scale([0.0, 1.0] if all(0 <= value <= 1 for value in reach) else reach, include=(0.0,))


def task_rows(task: Mapping[str, Any]) -> list[dict[str, Any]]:  # Any: values of a template
    """Return, for each model, its name, its track, and its numbers as text."""
    scale = task_scale(task)
    rows: list[dict[str, Any]] = []
    for index, (model, score) in enumerate(task["scores"].items()):
        low, high = score["low"], score["high"]
        interval = Interval(score["value"], low, high, tone_of(model, index))
        bounds = "" if low is None or high is None else f"{low:.3f} – {high:.3f}"
        rows.append(
            {
                "model": model,
                "track": interval_track(interval, scale),
                "value": f"{score['value']:.3f}",
                "bounds": bounds,
                "count": score["count"],
            }
        )
    return rows


def task_axis(task: Mapping[str, Any]) -> Markup:
    """Return the labels under a task's tracks."""
    return scale_ticks(task_scale(task))


def column(rows: Rows, key: str) -> list[tuple[float, float]]:
    """Return (step, value) wherever ``key`` is known."""
    points: list[tuple[float, float]] = []
    for row in rows:
        step, value = row["step"], row.get(key)
        if step is not None and value is not None:
            points.append((step, value))
    return points
