"""Which source gives sample n, and which of its own samples that is: arithmetic, without a history.

Shares are exact. The sources are the leaves of a binary tree of depth ceil(log2 K); at every node the first n
samples are divided between left and right by rounding n · share once, in whole numbers. So after any number
of samples each source has given its share to within half a sample a level, nothing drifts however long the
run, every batch has nearly the composition of the whole, and any place is found in O(log K) steps: a position
is one number. (A hashed choice would be as cheap to draw, but not to seek in: the number of a source's own
sample is the count of all choices before it, and its composition is only right on average.)
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction


class Interleave:
    """Deals samples 0, 1, 2, ... to sources in proportion to ``weights``."""

    def __init__(self, weights: Sequence[Fraction]) -> None:
        scale = math.lcm(*(weight.denominator for weight in weights))
        total = 0
        self._bounds = [0]  # bounds[j] - bounds[i] is the weight of sources i to j - 1
        for weight in weights:
            total += int(weight * scale)
            self._bounds.append(total)

    def place(self, sample: int) -> tuple[int, int]:
        """Return the source of ``sample`` and the number of its samples before."""
        first, end = 0, len(self._bounds) - 1
        while end - first > 1:
            middle = (first + end) // 2
            left = self._left(sample, first, middle, end)
            if self._left(sample + 1, first, middle, end) > left:
                sample, end = left, middle
            else:
                sample, first = sample - left, middle
        return first, sample

    def count(self, source: int, num_samples: int) -> int:
        """Return how many of the first ``num_samples`` are of ``source``."""
        first, end = 0, len(self._bounds) - 1
        while end - first > 1:
            middle = (first + end) // 2
            left = self._left(num_samples, first, middle, end)
            if source < middle:
                num_samples, end = left, middle
            else:
                num_samples, first = num_samples - left, middle
        return num_samples

    def reach(self, source: int, count: int) -> int:
        """Return the number of samples after which ``source`` is asked for its sample number ``count``."""
        low, high = count, count + 1
        while self.count(source, high) <= count:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            if self.count(source, middle) <= count:
                low = middle
            else:
                high = middle
        return low

    def _left(self, num_samples: int, first: int, middle: int, end: int) -> int:
        """Return how many of a node's first samples belong to its left half: the share, rounded."""
        part = self._bounds[middle] - self._bounds[first]
        whole = self._bounds[end] - self._bounds[first]
        return (2 * num_samples * part + whole) // (2 * whole)


@dataclass(frozen=True, slots=True)
class _Phase:
    """A stretch in which the same sources give: from sample ``start`` on, after ``given`` samples of each."""

    start: int
    sources: tuple[int, ...]
    given: tuple[int, ...]
    interleave: Interleave


class Schedule:
    """An interleave whose sources may run dry.

    A source that has given its ``limits`` samples (None: it never ends) is dropped at the moment it is asked
    for one more, and the others share its weight in their own proportions. ``num_samples`` is what there is
    in all, None if that has no end.
    """

    def __init__(self, weights: Sequence[Fraction], limits: Sequence[int | None]) -> None:
        self.num_samples: int | None = None
        self.dry: list[tuple[int, int]] = []  # (sample, source): from there on it gives nothing
        self._phases: list[_Phase] = []
        given = [0] * len(weights)
        start = 0
        while True:
            sources = [k for k, limit in enumerate(limits) if limit is None or given[k] < limit]
            left_out = set(range(len(weights))) - set(sources) - {source for _, source in self.dry}
            self.dry += [(start, source) for source in sorted(left_out)]
            if not sources:
                self.num_samples = start
                return
            interleave = Interleave([weights[k] for k in sources])
            self._phases.append(_Phase(start, tuple(sources), tuple(given), interleave))
            ends = [
                interleave.reach(place, limit - given[k])
                for place, k in enumerate(sources)
                if (limit := limits[k]) is not None
            ]
            if not ends:
                return
            for place, k in enumerate(sources):
                given[k] += interleave.count(place, min(ends))
            start += min(ends)

    def place(self, sample: int) -> tuple[int, int]:
        """Return the source of ``sample`` and the number of its samples before."""
        phase = self._phase(sample)
        place, before = phase.interleave.place(sample - phase.start)
        source = phase.sources[place]
        return source, phase.given[source] + before

    def counts(self, num_samples: int) -> list[int]:
        """Return how many of the first ``num_samples`` each source gives."""
        phase = self._phase(num_samples)
        counts = list(phase.given)
        for place, source in enumerate(phase.sources):
            counts[source] += phase.interleave.count(place, num_samples - phase.start)
        return counts

    def _phase(self, sample: int) -> _Phase:
        return self._phases[bisect_right([phase.start for phase in self._phases], sample) - 1]
