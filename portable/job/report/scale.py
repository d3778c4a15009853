"""From numbers to places on an axis, and to the labels that stand there."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear axis from ``low`` to ``high``, with round tick values in between."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def percent(self, value: float) -> float:
        """Return how far along the axis ``value`` lies, 0 to 100; values beyond an end stay at that end."""
        return 100 * min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def label(self, tick: float) -> str:
        """Return the text of a tick: as many decimals as the distance between ticks asks for."""
        step = self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else 1.0
        if self.high >= 10_000 and step >= 1000:
            return f"{tick / 1000:,.0f}k" if tick else "0"
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        return f"{tick:,.{decimals}f}"


def fit_scale(
    values: Iterable[float], *, num_ticks: int = 5, include: Iterable[float] = (), tight: bool = False
) -> Scale:
    """Return a scale that holds all ``values`` and those of ``include``.

    It begins and ends at a tick, or, if ``tight``, exactly at the smallest and greatest value. Values that
    are not finite are left out.
    """
    finite = [value for value in (*values, *include) if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if high - low < 1e-12:
        reach = 0.5 * (abs(low) if abs(low) > 1e-12 else 1.0)
        low, high = low - reach, high + reach
    step = _round_step((high - low) / num_ticks)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [index * step for index in range(first, last + 1)]
    if not tight:
        return Scale(ticks[0], ticks[-1], tuple(ticks))
    return Scale(low, high, tuple(tick for tick in ticks if low - 1e-9 * step <= tick <= high + 1e-9 * step))


def _round_step(step: float) -> float:
    """Return the next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def smooth(values: list[float], reach: int) -> list[float]:
    """Return the mean over a window of ``reach`` values to both sides.

    At the start the window shrinks on both sides, so that a steep beginning is not flattened; at the end it
    has only its left side, so that the last value does not wobble.
    """
    sums = [0.0, *accumulate(values)]
    result: list[float] = []
    for index in range(len(values)):
        side = min(reach, index)
        first, end = index - side, min(index + side + 1, len(values))
        result.append((sums[end] - sums[first]) / (end - first))
    return result


def spread(places: list[float], gap: float, low: float, high: float) -> list[float]:
    """Return ``places`` in the same order, moved as little as needed to lie ``gap`` apart within the bounds.

    With too little room for all gaps, the gaps shrink evenly.
    """
    if not places:
        return []
    gap = min(gap, (high - low) / max(len(places) - 1, 1))
    order = sorted(range(len(places)), key=lambda index: places[index])
    blocks: list[
        tuple[float, int]
    ] = []  # (place of the first, how many), each block a run of labels that touch
    for index in order:
        blocks.append((min(max(places[index], low), high), 1))
        while len(blocks) > 1 and blocks[-2][0] + blocks[-2][1] * gap > blocks[-1][0]:
            (second, count), (first, before) = blocks.pop(), blocks.pop()
            centre = (first * before + (second - before * gap) * count) / (before + count)
            blocks.append((min(max(centre, low), high - (before + count - 1) * gap), before + count))
    moved = [first + number * gap for first, count in blocks for number in range(count)]
    return [moved[order.index(index)] for index in range(len(places))]
