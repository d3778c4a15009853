"""Where two runs of one step part, and what did it.

An error is a distance relative to the norm of the recorded tensor. It grows on its way through a model, so
what a call *adds* tells, not what it has: from inputs with the error e, a call may make results with at most

    8 e + 2 eps + 4 sqrt(n) eps32

with eps of the format computed in (the coarser of the two runs), eps32 of float32, in which sums are taken,
and n the longest dim that may have been summed over. A sound layer stays well below: rounding errors are
random, and add up slower than that. A call beyond it departs. The first to depart in the order of execution
is what is to be found; what follows it may only be passing the error on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from portable.core.errors import ConfigError
from portable.device.protocol import Dtype
from portable.trace.recording import Node, Recording, Summaries
from portable.trace.replay import BACKWARD, FORWARD, UPDATE, Deviation, Replay
from portable.trace.summary import Summary, distance
from portable.trace.tracer import ROOT

OBJECTIVE = "(objective)"  # what makes a loss, and its gradient, of the model's outputs
_GROWTH = 8.0  # what a sound call may make of the error it is given: a softmax or a norm grows it a few times
_SUM, _GRADIENT_SUM = 4.0, 16.0  # the terms of a parameter's gradient, one a token, mostly cancel
_EPS32 = torch.finfo(torch.float32).eps
_DRIFT = 0.01  # parameters this far apart, after steps of their own, are another start
_PHASES = (FORWARD, BACKWARD, UPDATE)


@dataclass(frozen=True, slots=True)
class Step:
    """What one call, or the gradient of one parameter, made of the error it was given.

    ``place`` is its place in the order of its phase, ``rows`` those of a kernel: recorded, and here.
    """

    name: str
    phase: str
    place: float
    incoming: float
    outgoing: float
    allowed: float
    rows: tuple[str, str] = ("", "")

    @property
    def excess(self) -> float:
        """The error as a multiple of what is explained; above 1 the call departs."""
        return 0.0 if math.isinf(self.allowed) else self.outgoing / self.allowed

    @property
    def order(self) -> tuple[int, float]:
        """The place in the order of execution."""
        return _PHASES.index(self.phase), self.place


@dataclass(frozen=True, slots=True)
class Failure:
    """A kernel call that errs more than its reference explains, and in which phase it does so first."""

    replay: Replay
    deviation: Deviation

    @property
    def name(self) -> str:
        """The call."""
        return self.replay.name

    @property
    def phase(self) -> str:
        """The phase."""
        return self.deviation.phase


@dataclass(slots=True)
class Judgement:
    """All that a comparison found.

    ``parameters`` and ``batch`` name what differs before anything is computed. ``culprit`` is the first that
    departs: a kernel that fails before its reference, or else a call of a kernel or a module.
    """

    recorded: Recording
    present: Recording
    replays: list[Replay]
    parameters: list[str] = field(default_factory=list)
    batch: list[str] = field(default_factory=list)
    drift: float = 0.0
    steps: list[Step] = field(default_factory=list)
    culprit: Step | Failure | None = None

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
    drifts = {name: distance(recorded.parameters[name], value) for name, value in present.parameters.items()}
    found = Judgement(
        recorded,
        present,
        list(replays),
        [name for name, drift in drifts.items() if drift > _allowed_drift(recorded, present, name, eps)],
        _different(recorded.batch(), present.batch()),
        max(drifts.values(), default=0.0),
    )
    if found.same_start:
        found.steps = sorted(_Comparison(recorded, present, drifts, eps).steps(), key=lambda step: step.order)
    found.culprit = _first(found)
    return found


class _Comparison:
    """Two runs from one start, call by call."""

    def __init__(
        self, recorded: Recording, present: Recording, drifts: Mapping[str, float], eps: float
    ) -> None:
        self.recorded, self.present, self.drifts, self.eps = recorded, present, drifts, eps
        self._last = 1.0 + max((node.backward_place for node in present.nodes), default=0)

    def steps(self) -> Iterator[Step]:
        """Yield every result that both runs have."""
        before = {node.name: node for node in self.recorded.nodes}
        entering: dict[
            str, tuple[float, float]
        ] = {}  # of a module's backward pass: its place, the error given
        for place, node in enumerate(self.present.nodes):
            old = before.get(node.name)
            if old is None:
                continue
            ahead = max([*_distances(old.inputs, node.inputs), *self._drifts_of(node)], default=0.0)
            results = _distances(old.outputs, node.outputs)
            gradients = _distances(old.grad_outputs, node.grad_outputs)
            behind = max([ahead, *results, *gradients])
            length = max((max(item.shape, default=1) for item in _forward_tensors(node)), default=1)
            rows = (old.row, node.row)
            if results:
                allowed = self._allowed(ahead, _SUM * math.sqrt(length))
                yield Step(node.name, FORWARD, place, ahead, max(results), allowed, rows)
            if made := _distances(old.grad_inputs, node.grad_inputs):
                allowed = self._allowed(behind, _SUM * math.sqrt(length))
                yield Step(node.name, BACKWARD, node.backward_place, behind, max(made), allowed, rows)
            if not node.is_kernel and node.backward_place >= 0:
                entering[node.module] = node.backward_place, behind
            if node.name == ROOT and gradients:
                given = max([ahead, *results])
                allowed = self._allowed(given, _SUM * math.sqrt(length))
                yield Step(OBJECTIVE, BACKWARD, -1, given, max(gradients), allowed)
        yield from self._parameter_steps(entering)

    def _parameter_steps(self, entering: Mapping[str, tuple[float, float]]) -> Iterator[Step]:
        """Yield the gradient of each parameter, right behind the backward pass of its module."""
        num_tokens = max((math.prod(item.shape) for item in self.present.batch().values()), default=1)
        anywhere = self._last, max((error for _, error in entering.values()), default=0.0)
        old, new = self.recorded.gradients, self.present.gradients
        for name in sorted({*old, *new}):
            place, error = entering.get(name.rpartition(".")[0], anywhere)
            outgoing = distance(old[name], new[name]) if name in old and name in new else math.inf
            allowed = self._allowed(error, _GRADIENT_SUM * math.sqrt(num_tokens))
            yield Step(f"gradient of {name}", BACKWARD, place + 0.5, error, outgoing, allowed)

    def _allowed(self, error: float, roundings: float) -> float:
        return _GROWTH * error + 2 * self.eps + roundings * _EPS32

    def _drifts_of(self, node: Node) -> list[float]:
        """Return how far the parameters that a call computes with are from the recorded ones."""
        prefix = "" if node.module == ROOT else f"{node.module}."
        return [drift for name, drift in self.drifts.items() if name.startswith(prefix)]


def _check_shapes(recorded: Recording, present: Recording) -> None:
    old, new = (
        {name: summary.shape for name, summary in run.parameters.items()} for run in (recorded, present)
    )
    if old != new:
        names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        first = names[0]
        raise ConfigError(
            f"the recording is of another model: {len(names)} parameters differ in name or shape, first "
            f"'{first}' ({old.get(first, 'absent')} recorded, {new.get(first, 'absent')} here); compare the "
            "same job, and leave out overrides of the model"
        )


def _allowed_drift(recorded: Recording, present: Recording, name: str, eps: float) -> float:
    if present.header["step"] > 1:
        return _DRIFT
    return 0.0 if recorded.parameters[name].dtype == present.parameters[name].dtype else eps


def _different(recorded: Summaries, present: Summaries) -> list[str]:
    digests = [{name: (item.digest, item.shape) for name, item in run.items()} for run in (recorded, present)]
    return [name for name in sorted({*recorded, *present}) if digests[0].get(name) != digests[1].get(name)]


def _distances(recorded: Summaries, present: Summaries) -> list[float]:
    if recorded.keys() != present.keys():
        return [math.inf]
    return [distance(recorded[name], summary) for name, summary in present.items()]


def _forward_tensors(node: Node) -> Iterator[Summary]:
    yield from node.inputs.values()
    yield from node.outputs.values()


def _first(found: Judgement) -> Step | Failure | None:
    """Return the first in the order of execution that departs; of a kernel that fails, its failure."""
    suspects: list[tuple[tuple[int, float], int, Step | Failure]] = []
    suspects += [(step.order, 1, step) for step in found.steps if step.excess > 1]
    places = {node.name: (place, node.backward_place) for place, node in enumerate(found.present.nodes)}
    for number, replay in enumerate(found.replays):
        if (deviation := replay.failure) is not None:
            phase = _PHASES.index(deviation.phase)
            place = places[replay.name][phase] if replay.name in places else number
            suspects.append(((phase, place), 0, Failure(replay, deviation)))
    return min(suspects, key=lambda item: item[:2])[2] if suspects else None
