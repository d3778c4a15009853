"""Charts as inline SVG.

Places along the x axis are percentages and everything else is in pixels, so a chart fills any width while
its text, its dots and its strokes keep their size: the same chart is read on a phone and on paper. Only the
curves live in a stretched inner picture, with strokes that do not stretch. Colours are classes; the style
sheet knows what they mean, by day and by night.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from portable.job.report.scale import Scale, fit_scale, spread

_LABEL_GAP = 17.0  # pixels between two labels at the right end
_GRAIN = 1000  # resolution of a curve in both directions


@dataclass(frozen=True, slots=True)
class Curve:
    """One line. ``tone`` is a class of the style sheet; ``label`` stands at the right end, unless empty.

    A faint curve is the raw data behind a smoothed one; ``dots`` marks every point.
    """

    points: Sequence[tuple[float, float]]
    tone: str
    label: str = ""
    faint: bool = False
    dots: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """A dashed horizontal line to compare with."""

    value: float
    label: str


@dataclass(frozen=True, slots=True)
class Axes:
    """What the axes measure. ``include`` are y values that must be in view; ``y_limits`` fixes both ends."""

    x_label: str
    y_label: str
    include: tuple[float, ...] = ()
    y_limits: tuple[float, float] | None = None
    height: int = 260


def line_chart(curves: Sequence[Curve], axes: Axes, levels: Sequence[Level] = (), title: str = "") -> Markup:
    """Return curves over common axes, named at their right ends; empty if no curve has a point."""
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return Markup("")
    x = fit_scale((point[0] for curve in curves for point in curve.points), tight=True)
    y_values = axes.y_limits or [point[1] for curve in curves for point in curve.points]
    y = fit_scale(y_values, include=(*axes.include, *(level.value for level in levels)))
    parts = [_grid(x, y, axes), *(_level(level, y, axes.height) for level in levels)]
    parts.append(_paths(curves, x, y))
    parts += [_dots(curve, x, y, axes.height) for curve in curves if curve.dots]
    parts.append(_end_labels(curves, levels, y, axes.height))
    hover = json.dumps([_hover(curve) for curve in curves if not curve.faint], separators=(",", ":"))
    body = Markup("").join(parts)
    return Markup(
        '<div class="chart" data-curves="{}" data-x="{},{}" data-x-name="{}">'
        '<p class="axis-name">{}</p><div class="plot" style="height:{}px">'
        '<svg role="img" aria-label="{}" width="100%" height="100%">{}</svg></div>'
        '<p class="axis-name x-name">{}</p></div>'
    ).format(
        hover,
        x.low,
        x.high,
        axes.x_label,
        axes.y_label,
        axes.height,
        title or axes.y_label,
        body,
        axes.x_label,
    )


def _grid(x: Scale, y: Scale, axes: Axes) -> Markup:
    height = axes.height
    rows = Markup("").join(
        Markup(
            '<line class="grid" x1="0" x2="100%" y1="{0}" y2="{0}"/>'
            '<text class="tick" x="-10" y="{0}" dy="0.35em" text-anchor="end">{1}</text>'
        ).format(_pixel(tick, y, height), y.label(tick))
        for tick in y.ticks
    )
    columns = Markup("").join(
        Markup(
            '<line class="mark" x1="{0}%" x2="{0}%" y1="{1}" y2="{2}"/>'
            '<text class="tick" x="{0}%" y="{3}" text-anchor="middle">{4}</text>'
        ).format(_short(x.percent(tick)), height, height + 4, height + 19, x.label(tick))
        for tick in x.ticks
    )
    return rows + columns


def _level(level: Level, y: Scale, height: int) -> Markup:
    return Markup('<line class="level" x1="0" x2="100%" y1="{0}" y2="{0}"/>').format(
        _pixel(level.value, y, height)
    )


def _paths(curves: Sequence[Curve], x: Scale, y: Scale) -> Markup:
    paths = Markup("").join(
        Markup('<path class="curve {}{}" d="{}"/>').format(
            curve.tone, " faint" if curve.faint else "", _path(curve, x, y)
        )
        for curve in curves
    )
    return Markup(
        '<svg x="0" y="0" width="100%" height="100%" viewBox="0 0 {0} {0}" preserveAspectRatio="none" '
        'overflow="visible">{1}</svg>'
    ).format(_GRAIN, paths)


def _path(curve: Curve, x: Scale, y: Scale) -> str:
    places = [
        f"{x.percent(across) * _GRAIN / 100:.0f} {_GRAIN - y.percent(up) * _GRAIN / 100:.0f}"
        for across, up in curve.points
    ]
    return "M" + "L".join(places)


def _dots(curve: Curve, x: Scale, y: Scale, height: int) -> Markup:
    return Markup("").join(
        Markup('<circle class="dot {}" cx="{}%" cy="{}" r="3.5"/>').format(
            curve.tone, _short(x.percent(across)), _pixel(up, y, height)
        )
        for across, up in curve.points
    )


def _end_labels(curves: Sequence[Curve], levels: Sequence[Level], y: Scale, height: int) -> Markup:
    named = [(curve.label, curve.tone, curve.points[-1][1]) for curve in curves if curve.label]
    named += [(level.label, "tone-quiet", level.value) for level in levels]
    places = spread([float(_pixel(value, y, height)) for _, _, value in named], _LABEL_GAP, 0, height)
    return Markup("").join(
        Markup('<text class="name {}" x="100%" dx="9" y="{}" dy="0.35em">{}</text>').format(
            tone, _short(place), label
        )
        for (label, tone, _), place in zip(named, places, strict=True)
    )


def _hover(curve: Curve) -> dict[str, object]:
    """Return what the page's script shows under the pointer, thinned to what a screen can tell apart."""
    step = max(1, len(curve.points) // 400)
    kept = list(curve.points[::step])
    if kept[-1] != curve.points[-1]:
        kept.append(curve.points[-1])
    return {"label": curve.label, "points": [[across, float(f"{up:.4g}")] for across, up in kept]}


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95 % interval; the ends are None where there is none."""

    value: float
    low: float | None
    high: float | None
    tone: str


def interval_track(interval: Interval, scale: Scale) -> Markup:
    """Return a dot with whiskers on a line of its own."""
    parts = [
        Markup('<line class="grid" x1="{0}%" x2="{0}%" y1="0" y2="100%"/>').format(
            _short(scale.percent(tick))
        )
        for tick in scale.ticks
    ]
    if interval.low is not None and interval.high is not None:
        parts.append(
            Markup('<line class="whisker {}" x1="{}%" x2="{}%" y1="50%" y2="50%"/>').format(
                interval.tone, _short(scale.percent(interval.low)), _short(scale.percent(interval.high))
            )
        )
    parts.append(
        Markup('<circle class="dot {}" cx="{}%" cy="50%" r="5"/>').format(
            interval.tone, _short(scale.percent(interval.value))
        )
    )
    return Markup('<svg class="track" width="100%" height="32" aria-hidden="true">{}</svg>').format(
        Markup("").join(parts)
    )


def scale_ticks(scale: Scale) -> Markup:
    """Return the labels of a horizontal axis."""
    labels = Markup("").join(
        Markup('<text class="tick" x="{}%" y="14" text-anchor="middle">{}</text>').format(
            _short(scale.percent(tick)), scale.label(tick)
        )
        for tick in scale.ticks
    )
    return Markup('<svg class="track" width="100%" height="20" aria-hidden="true">{}</svg>').format(labels)


def _pixel(value: float, y: Scale, height: int) -> str:
    return _short(height * (1 - y.percent(value) / 100))


def _short(number: float) -> str:
    return str(escape(f"{number:.2f}".rstrip("0").rstrip(".")))
