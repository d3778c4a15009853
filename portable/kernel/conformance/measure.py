"""How far an answer is from the truth, in units that its number format explains.

The unit is half the spacing of the format's numbers at the size of the vector that a number stands in (its
last dim): what rounding the exact result once may cost. An error counts as a multiple of the larger of one
unit and the worst error of the reference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_NEGLIGIBLE = 1e-6  # a gradient below this part of the others is zero but for rounding
_TERMS = 8.0  # and the terms that cancel in it may be this much larger than those others


@dataclass(frozen=True, slots=True)
class Deviation:
    """The worst error of a tensor in units, and where it is; a ``fault`` is no matter of degree."""

    units: float
    text: str = ""
    fault: str = ""


def compare(
    actual: Tensor, truth: Tensor, size: Tensor | float, kept_in: torch.dtype | None = None
) -> Deviation:
    """Measure ``actual`` against ``truth`` of the same shape; ``size`` is that of the numbers around each.

    The unit is that of the dtype of ``actual`` or of ``kept_in``, the coarser of the two. Whole numbers must
    be equal; infinities and NaN must be where the rounded truth has them.
    """
    actual, truth = actual.detach().cpu(), truth.detach()
    if not actual.is_floating_point():
        wrong = actual != truth
        return Deviation(0.0) if not wrong.any() else _fault(actual, truth, wrong)
    rounded = truth.to(actual.dtype)
    special = ~(rounded.isfinite() & actual.isfinite())
    if special.any():
        wrong = special & (actual != rounded) & ~(actual.isnan() & rounded.isnan())
        if wrong.any():
            return _fault(actual, truth, wrong)
    if actual.numel() == 0:
        return Deviation(0.0)
    limits = [torch.finfo(dtype) for dtype in (actual.dtype, kept_in or actual.dtype)]
    coarse = max(limits, key=lambda item: item.eps)
    finest = limits[0].smallest_normal * limits[0].eps / 2
    unit = (torch.as_tensor(size, dtype=torch.float64) * (coarse.eps / 2)).clamp(min=finest)
    errors = ((actual.double() - truth.double()).abs() / unit).masked_fill(special, 0.0)
    worst = int(errors.argmax())
    return Deviation(float(errors.flatten()[worst]), _at(actual, truth, worst))


def output_sizes(truth: Tensor, scale: float) -> Tensor:
    """Return for each number of an output the largest of its vector, at least ``scale``."""
    finite = torch.where(truth.isfinite(), truth, 0.0).abs()
    largest = finite.amax(-1, keepdim=True) if truth.dim() and truth.shape[-1] else finite
    # A result of one dim is one vector; so is each row of more.
    return largest.clamp(min=scale).expand_as(truth)


def gradient_sizes(truths: Sequence[Tensor | None], cotangents: Sequence[Tensor | None]) -> list[float]:
    """Return the size of each gradient: its largest number.

    A gradient that is zero but for rounding has that of the largest beside it: its terms cancel.
    """
    own = [_largest(x) for x in truths]
    widest = max([*own, 0.0]) or max([*map(_largest, cotangents), 0.0])
    return [size if size > _NEGLIGIBLE * widest else widest * _TERMS for size in own]


def coarsest(outputs: Sequence[Tensor]) -> torch.dtype | None:
    """Return the coarsest floating dtype of ``outputs``: what a backward pass may keep of a forward pass."""
    dtypes = [x.dtype for x in outputs if x.is_floating_point()]
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps, default=None)


def ratio(actual: Deviation, reference: Deviation, least: float = 1.0) -> float:
    """Return the error as a multiple of the reference's, or of ``least`` units where that is larger."""
    return actual.units / max(reference.units, least)


def _largest(x: Tensor | None) -> float:
    if x is None or x.numel() == 0:
        return 0.0
    value = float(torch.where(x.isfinite(), x, 0.0).abs().max())
    return 0.0 if math.isnan(value) else value


def _fault(actual: Tensor, truth: Tensor, wrong: Tensor) -> Deviation:
    first = int(wrong.flatten().nonzero()[0])
    count = int(wrong.sum())
    return Deviation(math.inf, fault=f"{_at(actual, truth, first)}; so are {count} of {wrong.numel()}")


def _at(actual: Tensor, truth: Tensor, flat_index: int) -> str:
    place = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat_index), actual.shape))
    got, wanted = actual.flatten()[flat_index].item(), truth.flatten()[flat_index].item()
    return f"at {place}: {got:.8g} instead of {wanted:.8g}"
