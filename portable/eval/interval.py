"""How far a score can be trusted: 95 % intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from portable.core.random import derive_seed

_Z95 = 1.959963984540054  # the 97.5 % point of the standard normal
_CHUNK = 2**22  # indices drawn at a time: bounds memory, not the result


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value over ``count`` items with the bounds of its 95 % interval."""

    value: float
    count: int
    low: float
    high: float


def wilson(successes: int, count: int) -> Estimate:
    """Estimate a proportion. Right also near 0 and 1, where the normal interval is not (Wilson 1927).

    Raises: ValueError without trials, or with more successes than trials.
    """
    if count < 1 or not 0 <= successes <= count:
        raise ValueError(f"{successes} successes of {count} trials are no proportion")
    share, z2 = successes / count, _Z95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z95 * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    # At the ends the bound is exactly 0 or 1; rounding must not move it past the value.
    return Estimate(share, count, max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share)))


def bootstrap_mean(values: Sequence[float], *, seed: int, num_resamples: int = 1000) -> Estimate:
    """Estimate a mean by the percentile bootstrap (Efron 1979)."""
    return bootstrap_ratio(values, [1.0] * len(values), seed=seed, num_resamples=num_resamples)


def bootstrap_ratio(
    numerators: Sequence[float], denominators: Sequence[float], *, seed: int, num_resamples: int = 1000
) -> Estimate:
    """Estimate ``sum(numerators) / sum(denominators)``, resampling items: e.g. bits and bytes of documents.

    Raises: ValueError if there are no items, or if the two differ in length.
    """
    if not numerators or len(numerators) != len(denominators):
        raise ValueError(f"{len(numerators)} numerators and {len(denominators)} denominators make no ratio")
    over_N, under_N = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    count = len(over_N)
    generator = np.random.Generator(np.random.PCG64(derive_seed(seed, "bootstrap")))
    ratios: list[np.ndarray] = []
    for first in range(0, num_resamples, max(1, _CHUNK // count)):
        size = min(max(1, _CHUNK // count), num_resamples - first)
        drawn_RN = generator.integers(0, count, (size, count))
        ratios.append(over_N[drawn_RN].sum(1) / under_N[drawn_RN].sum(1))
    low, high = np.quantile(np.concatenate(ratios), (0.025, 0.975))
    value = float(over_N.sum() / under_N.sum())
    return Estimate(value, count, min(float(low), value), max(float(high), value))
