"""Finds the first module whose values depart: outputs in the order of the forward pass, then gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from portable.certificate.measure import Bars, ratio, relative_difference
from portable.certificate.place import Places
from portable.certificate.shrink import Trial
from portable.certificate.train import Run, alone, train
from portable.certificate.watch import Key, Watch
from portable.core.errors import ShapeError
from portable.model.decoder import Decoder
from portable.parallel.runtime import Runtime
from portable.train.config import OptimConfig

FORWARD, BACKWARD, PARAMETER = "forward", "backward", "gradient of the parameter"


@dataclass(frozen=True, slots=True)
class Departure:
    """Where it begins. ``factor`` is the multiple of the right values that the found ones are nearest to;
    ``problem`` says what is wrong with the shape, if that is it.
    """

    name: str
    phase: str
    rank: int
    place: int  # in the order of the pass
    difference: float
    bar: float
    factor: float = math.nan
    problem: str = ""

    def __str__(self) -> str:
        """Return e.g. ``blocks.1.attention, forward, rank 1: 3.1e-02 (bar 1.0e-05)``."""
        if self.problem:
            return f"{self.name}, {self.phase}, rank {self.rank}: {self.problem}"
        text = f"{self.name}, {self.phase}, rank {self.rank}: {self.difference:.1e} (bar {self.bar:.1e})"
        scaled = math.isfinite(self.factor) and abs(self.factor - 1) > 0.01
        return f"{text}; nearest to {self.factor:.3g} times the right values" if scaled else text


def find_departure(
    trial: Trial, runtime: Runtime, optim: OptimConfig, bars: Bars
) -> tuple[Departure | None, int]:
    """Run the first step once more, watched; return the first departure of all ranks, and how many calls of
    modules were compared. All ranks call, and get the same. Of a model of transformers only gradients of
    parameters are compared: which part of what its modules make a rank has, nobody has said.
    """
    readers = runtime.readers.size
    right, own = Watch(), Watch()
    is_ours = trial.foreign is None
    expected = train(trial, alone(runtime), optim, readers=readers, steps=1, watch=right if is_ours else None)
    found = train(trial, runtime, optim, readers=readers, steps=1, watch=own if is_ours else None)
    departures: list[Departure] = []
    compared = 0
    for verdict in _modules(trial, runtime, bars, right, own) if is_ours else ():
        compared += 1
        departures += [verdict] if verdict.problem or not verdict.difference <= bars.gradient else []
    departures += _parameters(expected, found, bars, runtime.group.rank)
    phases = [FORWARD, BACKWARD, PARAMETER]
    first = min(departures, key=lambda found: (phases.index(found.phase), found.place), default=None)
    told = runtime.group.all_gather_object((first, compared))
    all_first = [departure for departure, _ in told if departure is not None]
    earliest = min(
        all_first, key=lambda found: (phases.index(found.phase), found.place, found.rank), default=None
    )
    return earliest, sum(count for _, count in told)


def _modules(trial: Trial, runtime: Runtime, bars: Bars, right: Watch, own: Watch) -> Iterator[Departure]:
    """Yield a verdict for every result that this rank has computed, and for the gradients at them."""
    with torch.device("meta"):
        places = Places(Decoder(trial.model, runtime.kernels), trial, runtime)
    for phase, whole, parts in (
        (FORWARD, right.outputs, own.outputs),
        (BACKWARD, right.gradients, own.gradients),
    ):
        for key, place in _order(whole).items():
            yield from _compare(key, place, phase, whole, parts, places, runtime, bars)


def _order(whole: dict[Key, Tensor]) -> dict[tuple[str, str], int]:
    """Return the results of modules in the order of the pass."""
    return {name: place for place, name in enumerate(dict.fromkeys((key.module, key.path) for key in whole))}


def _compare(
    name: tuple[str, str],
    place: int,
    phase: str,
    whole: dict[Key, Tensor],
    parts: dict[Key, Tensor],
    places: Places,
    runtime: Runtime,
    bars: Bars,
) -> Iterator[Departure]:
    """Yield a verdict for every micro-batch that this rank has computed with the module."""
    count, reader = places.trial.num_micro_batches, runtime.readers.rank
    for micro_batch in range(count):
        mine, all_of_it = Key(*name, micro_batch), whole.get(Key(*name, reader * count + micro_batch))
        own = parts.get(mine)
        if own is None or all_of_it is None:
            continue
        shown = ".".join(filter(None, name))
        for axis in places.sum_axes(name[0], all_of_it, own, gradient=phase == BACKWARD):
            own = runtime.mesh.group(axis).all_reduce(own)
        try:
            expected, found = places.expected(name[0], all_of_it, own)
        except ShapeError as error:
            yield Departure(
                shown, phase, runtime.group.rank, place, math.inf, bars.gradient, problem=str(error)
            )
            continue
        difference = relative_difference(expected, found, all_of_it)
        factor = ratio(expected, found)
        yield Departure(shown, phase, runtime.group.rank, place, difference, bars.gradient, factor)


def _parameters(expected: Run, found: Run, bars: Bars, rank: int) -> list[Departure]:
    """Return the parameters whose gradients depart, though those of modules may not."""
    departures: list[Departure] = []
    for place, (name, (_, whole)) in enumerate(expected.gradients.items()):
        if name in found.gradients:
            extent, own = found.gradients[name]
            right = extent.of(whole)
            difference = relative_difference(right, own, whole)
            if not difference <= bars.gradient:
                factor = ratio(right, own)
                departures.append(Departure(name, PARAMETER, rank, place, difference, bars.gradient, factor))
    return departures
