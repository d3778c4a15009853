"""How far two runs are apart, and how far they may be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from portable.certificate.train import SEED, Run
from portable.device.protocol import Dtype
from portable.model.config import ModelConfig
from portable.model.init import initial_value


@dataclass(frozen=True, slots=True)
class Bars:
    """What rounding explains: of losses and scores in nats, of the rest relative, see ``measure``."""

    loss: float
    norm: float
    gradient: float
    score: float
    weight: float


FP32 = Bars(loss=2e-6, norm=1e-5, gradient=1e-5, score=1e-4, weight=1e-3)
# Measured, by tests/bench/certificate_noise.py (table in docs/benchmarks.md), in bf16, whose roundings are 8
# times those of fp16: in three steps, layouts that are right differ from one process by up to 2e-3, 2e-3,
# 4e-1, 2e-1 and 5e-1 (without experts 4e-2 and 2e-2 of gradients and scores: a rounding may send a token to
# another one). Adam's first steps have the gradient's sign, which rounding turns where it is small. The bars
# lie between that and what planted faults show in one line at least: 1e-1 of the norm, 9e-1 of gradients. A
# token that an expert drops is no more than one that rounding sends elsewhere, so only float32 finds it. The
# loss's bar is 1e-3 of its value at a random start, 4 nats.
HALF = Bars(loss=4e-3, norm=1e-2, gradient=5e-1, score=4e-1, weight=6e-1)


def bars_of(dtype: Dtype) -> Bars:
    """Return the bars of a format of matmuls."""
    return FP32 if dtype is Dtype.fp32 else HALF


@dataclass(frozen=True, slots=True)
class Line:
    """A comparison: the largest difference, of what and on which rank it was seen.

    One that could not be made is not ``compared``; it speaks neither for nor against.
    """

    what: str
    difference: float
    bar: float
    of: str = ""
    rank: int = 0
    compared: bool = True

    @property
    def agrees(self) -> bool:
        """Whether nothing speaks against: the difference is within the bar; one that is no number is not."""
        return not self.compared or self.difference <= self.bar


def measure(expected: Run, found: Run, model: ModelConfig, bars: Bars, rank: int) -> list[Line]:
    """Return the comparisons of a rank.

    Gradients differ relative to the largest entry of the whole tensor, weights by the norm of the difference
    relative to that of what the steps changed.
    """
    steps = len(expected.losses)
    lines = [
        Line(f"loss of {steps} steps", *_worst(expected.losses, found.losses, relative=False, bar=bars.loss)),
        Line("gradient norm", *_worst(expected.norms, found.norms, relative=True, bar=bars.norm)),
    ]
    lines += list(_gradients(expected, found, bars))
    scores = float((expected.scores - found.scores).abs().max())
    lines.append(Line("log-probabilities after them", scores, bars.score))
    lines += list(_weights(expected, found, model, bars))
    return [replace(line, difference=_number(line.difference), rank=rank) for line in lines]


def relative_difference(expected: Tensor, found: Tensor, scale: Tensor) -> float:
    """Return the largest difference relative to the largest entry of ``scale``."""
    if not expected.numel():
        return 0.0
    largest = float(scale.abs().max())
    difference = float((expected.float() - found.float()).abs().max())
    return _number(difference / largest if largest else difference)


def ratio(expected: Tensor, found: Tensor) -> float:
    """Return the factor of ``expected`` that is nearest to ``found``."""
    x, y = expected.flatten().double(), found.flatten().double()
    square = float(x @ x)
    return float(x @ y) / square if square else math.nan


def _gradients(expected: Run, found: Run, bars: Bars) -> Iterator[Line]:
    what = "gradients of the first step"
    if not found.gradients:
        yield Line(f"{what}: not shown by this strategy", 0.0, bars.gradient, compared=False)
    for name, (extent, own) in found.gradients.items():
        whole = expected.gradients[name][1]
        yield Line(what, relative_difference(extent.of(whole), own, whole), bars.gradient, name)


def _weights(expected: Run, found: Run, model: ModelConfig, bars: Bars) -> Iterator[Line]:
    what = f"weights after {len(expected.losses)} steps"
    for name in expected.weights.keys() | found.weights.keys():
        if name not in found.weights or name not in expected.weights:
            yield Line(what, math.inf, bars.weight, f"{name}, which only one of them has")
            continue
        whole = expected.weights[name].float()
        changed = float((whole - initial_value(model, name, whole.shape, SEED)).norm())
        apart = float((found.weights[name].float() - whole).norm())
        yield Line(what, apart / changed if changed else apart, bars.weight, name)


def _worst(expected: list[float], found: list[float], *, relative: bool, bar: float) -> tuple[float, float]:
    pairs = torch.tensor([expected, found], dtype=torch.float64)
    differences = (pairs[0] - pairs[1]).abs()
    return float((differences / pairs[0].abs() if relative else differences).max()), bar


def _number(difference: float) -> float:
    return difference if math.isfinite(difference) else math.inf
