"""Compares a layout with one process, and says where they part."""

from __future__ import annotations

from dataclasses import dataclass, replace

from portable.certificate.bisect import Departure, find_departure
from portable.certificate.measure import Line, bars_of, measure
from portable.certificate.shrink import Trial
from portable.certificate.train import alone, train
from portable.parallel.runtime import Runtime
from portable.train.config import OptimConfig


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of it: the comparisons, and if one failed the first module that departs."""

    lines: list[Line]
    departure: Departure | None = None
    num_compared: int = 0  # calls of modules, when the departure was looked for

    @property
    def agrees(self) -> bool:
        """Whether all comparisons are within their bars."""
        return all(line.agrees for line in self.lines)


def certify(trial: Trial, runtime: Runtime, optim: OptimConfig, steps: int) -> Verdict:
    """Train the trial on all ranks, and on each rank alone; all ranks call, and get the same verdict."""
    runtime = replace(runtime, parallel=trial.parallel)
    verdict = Verdict(compare(trial, runtime, optim, steps))
    if verdict.agrees:
        return verdict
    departure, compared = find_departure(trial, runtime, optim, bars_of(runtime.precision.compute_dtype))
    return replace(verdict, departure=departure, num_compared=compared)


def compare(trial: Trial, runtime: Runtime, optim: OptimConfig, steps: int) -> list[Line]:
    """Return the comparisons alone, each the worst of all ranks, which call together."""
    bars, rank, readers = bars_of(runtime.precision.compute_dtype), runtime.group.rank, runtime.readers.size
    expected = train(trial, alone(runtime), optim, readers=readers, steps=steps)
    found = train(trial, runtime, optim, readers=readers, steps=steps)
    told = runtime.group.all_gather_object(
        (measure(expected, found, trial.model, bars, rank), expected.losses)
    )
    losses = [alone_losses for _, alone_losses in told]
    apart = max(abs(a - b) for own in losses for a, b in zip(own, losses[0], strict=True))
    lines = [Line("one process, the same on every rank", apart, bars.loss)]
    return lines + _worst([line for own, _ in told for line in own])


def _worst(lines: list[Line]) -> list[Line]:
    """Return the line of each kind with the largest difference."""
    worst: dict[str, Line] = {}
    for line in lines:
        if line.what not in worst or line.difference > worst[line.what].difference:
            worst[line.what] = line
    return list(worst.values())
