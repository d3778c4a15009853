"""Where two runs of one step part, and what did it.

An error is a distance relative to the norm of the recorded tensor. It grows on its way through a model, so what a
call *adds* tells, not what it has: from inputs with the error e, a call may make outputs with at most

    8 e + 2 eps + 4 sqrt(n) eps32

with eps of the format computed in (the coarser of the two runs), eps32 of float32, in which sums are taken, and n the
longest dim that may have been summed over. A sound layer stays well below: rounding errors are random, and add up
slower than that. A call beyond it departs; the first to depart in the order of execution is what is to be found.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from portable.core.errors import ConfigError
from portable.device.protocol import Dtype
from portable.trace.recording import Node, Recording, Summaries
from portable.trace.replay import BACKWARD, FORWARD, UPDATE, Deviation, Replay
from portable.trace.summary import distance

_GROWTH = 8.0  # what a sound call may make of the error it is given: a softmax or a norm grows it a few times
_SUM, _GRADIENT_SUM = 4.0, 16.0  # the terms of a parameter's gradient, one a token, mostly cancel
_EPS32 = torch.finfo(torch.float32).eps
_DRIFT = 0.01  # parameters this far apart, after steps of their own, are another start
_PHASES = (FORWARD, BACKWARD, UPDATE)


@dataclass(frozen=True, slots=True)
class Step:
    """What one call, or the gradient of one parameter, made of the error it was given."""

    name: str
    phase: str
    place: float  # in the order of its phase
    incoming: float
    outgoing: float
    allowed: float
    rows: tuple[str, str] = ("", "")  # of a kernel: recorded, present

    @property
    def excess(self) -> float:
        """The error as a multiple of what is explained; above 1 the call departs."""
        return self.outgoing / self.allowed

    @property
    def order(self) -> tuple[int, float]:
        """The place in the order of execution."""
        return _PHASES.index(self.phase), self.place


@dataclass(frozen=True, slots=True)
class Culprit:
    """The first that departs: a kernel whose replay failed, a kernel whose replay did not, or a module."""

    name: str
    phase: str
    step: Step | None = None
    replay: Replay | None = None
    deviation: Deviation | None = None


@dataclass(slots=True)
class Judgement:
    """All that a comparison found. ``parameters`` and ``batch`` name what differs before anything is computed."""

    recorded: Recording
    present: Recording
    replays: list[Replay]
    eps: float
    parameters: list[str] = field(default_factory=list)
    drift: float = 0.0
    batch: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    culprit: Culprit | None = None

    @property
    def same_start(self) -> bool:
        """Whether parameters and batch are those of the recording."""
        return not self.parameters and not self.batch

    @property
    def agrees(self) -> bool:
        """Whether nothing departs."""
        return self.same_start and self.culprit is None


def judge(recorded: Recording, present: Recording, replays: Sequence[Replay]) -> Judgement:
    """Compare two recordings of one step.

    Where they start from other parameters or tokens, modules are not compared; kernels still are, with their
    references. Raises: ConfigError if the models are not of one shape.
    """
    _check_shapes(recorded, present)
    eps = max(torch.finfo(Dtype[run.header["compute_dtype"]].torch()).eps for run in (recorded, present))
    found = Judgement(recorded, present, list(replays), eps)
    drifts = {name: distance(recorded.parameters[name], value) for name, value in present.parameters.items()}
    found.drift = max(drifts.values(), default=0.0)
    found.parameters = [
        name for name, drift in drifts.items() if drift > _allowed_drift(recorded, present, name, eps)
    ]
    found.batch = _different(recorded.batch(), present.batch())
    if found.same_start:
        found.steps = sorted(_steps(recorded, present, drifts, eps), key=lambda step: step.order)
    found.culprit = _first(found)
    return found


def _check_shapes(recorded: Recording, present: Recording) -> None:
    shapes = [
        {name: summary.shape for name, summary in run.parameters.items()} for run in (recorded, present)
    ]
    if shapes[0] != shapes[1]:
        names = [name for name in {**shapes[0], **shapes[1]} if shapes[0].get(name) != shapes[1].get(name)]
        raise ConfigError(
            f"the recording is of another model: {len(names)} parameters differ in name or shape, first "
            f"'{names[0]}' ({shapes[0].get(names[0], 'absent')} recorded, {shapes[1].get(names[0], 'absent')} "
            "here); compare the same job, and leave out overrides of the model"
        )


def _allowed_drift(recorded: Recording, present: Recording, name: str, eps: float) -> float:
    if present.header["step"] > 1:
        return _DRIFT
    return 0.0 if recorded.parameters[name].dtype == present.parameters[name].dtype else eps


def _different(recorded: Summaries, present: Summaries) -> list[str]:
    names = sorted({*recorded, *present})
    return [
        name
        for name in names
        if name not in recorded or name not in present or recorded[name].digest != present[name].digest
    ]


def _steps(recorded: Recording, present: Recording, drifts: dict[str, float], eps: float) -> Iterator[Step]:
    before = {node.name: node for node in recorded.nodes}
    entering: dict[str, float] = {}  # what a module's backward pass is given
    places: dict[str, float] = {}
    for place, node in enumerate(present.nodes):
        old = before.get(node.name)
        if old is None:
            continue
        rows = (old.row, node.row)
        own = [drift for name, drift in drifts.items() if name.startswith(f"{node.module}.")]
        ahead = max([*_distances(old.inputs, node.inputs), *own], default=0.0)
        given = [
            ahead,
            *_distances(old.outputs, node.outputs),
            *_distances(old.grad_outputs, node.grad_outputs),
        ]
        behind = max(given)
        if not node.is_kernel:
            entering[node.module], places[node.module] = behind, node.backward_place
        for phase, error, order, results in (
            (FORWARD, ahead, place, (old.outputs, node.outputs)),
            (BACKWARD, behind, node.backward_place, (old.grad_inputs, node.grad_inputs)),
        ):
            if distances := _distances(*results):
                yield Step(node.name, phase, order, error, max(distances), _allowed(error, node, eps), rows)
    yield from _gradient_steps(recorded, present, entering, places, eps)


def _gradient_steps(
    recorded: Recording,
    present: Recording,
    entering: dict[str, float],
    places: dict[str, float],
    eps: float,
) -> Iterator[Step]:
    num_tokens = max((math.prod(summary.shape) for summary in present.batch().values()), default=1)
    for name in sorted({*recorded.gradients, *present.gradients}):
        pair = recorded.gradients.get(name), present.gradients.get(name)
        outgoing = math.inf if pair[0] is None or pair[1] is None else distance(pair[0], pair[1])
        module = name.rpartition(".")[0]
        error = entering.get(module, max(entering.values(), default=0.0))
        allowed = _GROWTH * error + 2 * eps + _GRADIENT_SUM * math.sqrt(num_tokens) * _EPS32
        # Right behind its module, whose own backward pass it is a part of.
        yield Step(f"gradient of {name}", BACKWARD, places.get(module, 0.0) + 0.5, error, outgoing, allowed)


def _distances(recorded: Summaries, present: Summaries) -> list[float]:
    if recorded.keys() != present.keys():
        return [math.inf]
    return [distance(recorded[name], summary) for name, summary in present.items()]


def _allowed(error: float, node: Node, eps: float) -> float:
    sides: Iterable[Summaries] = (node.inputs, node.outputs)
    length = max((max(summary.shape, default=1) for side in sides for summary in side.values()), default=1)
    return _GROWTH * error + 2 * eps + _SUM * math.sqrt(length) * _EPS32


def _first(found: Judgement) -> Culprit | None:
    """Return the first in the order of execution that departs, or fails before its reference."""
    by_name = {replay.name: replay for replay in found.replays}
    suspects: list[tuple[tuple[int, float], int, Culprit]] = []
    for step in found.steps:
        if step.excess > 1:
            replay = by_name.get(step.name)
            suspects.append((step.order, 1, Culprit(step.name, step.phase, step, replay)))
    orders = {node.name: (place, node.backward_place) for place, node in enumerate(found.present.nodes)}
    for number, replay in enumerate(found.replays):
        for deviation in replay.deviations:
            if deviation.failed:
                index = _PHASES.index(deviation.phase)
                place = orders[replay.name][index] if replay.name in orders else number
                step = next(
                    (
                        step
                        for step in found.steps
                        if (step.name, step.phase) == (replay.name, deviation.phase)
                    ),
                    None,
                )
                suspects.append(
                    ((index, place), 0, Culprit(replay.name, deviation.phase, step, replay, deviation))
                )
    return min(suspects, key=lambda item: item[:2])[2] if suspects else None
