"""One kernel call, done again by its reference: in float64, which is exact here, and in the call's own formats.

Both run on the host, so that neither the device's kernels nor its operators have a say. The row may err a few
times as much as the reference does in the same formats (its ``tolerance``), and no more: what rounding explains
cancels out of that comparison.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from portable.core.registry import load_target
from portable.kernel.entry import Kernel, KernelEntry
from portable.kernel.op import Op
from portable.trace.summary import map_tensors, tensors_in

FORWARD, BACKWARD, UPDATE = "forward", "backward", "update"
_MAX_ELEMENTS = 2**30  # of all arguments; in float64, with gradients, that is some 32 GiB of host memory
_ROUNDING = 0.5  # no row is asked to err less than half a unit in the last place
Tensors = dict[str, Tensor]


@dataclass(slots=True)
class KernelCall:
    """What went into a kernel and what came out, forward and backward; tensors by their paths in the arguments.

    ``mutates`` ops write into their arguments: there, ``args`` and ``kwargs`` are from before and ``outputs``
    are those arguments after. ``autocast`` is the number format that autocast computed in, if it was on.
    """

    name: str
    op: Op
    row: KernelEntry
    args: tuple[Any, ...]  # Any: each op has its own signature
    kwargs: Mapping[str, Any]
    autocast: torch.dtype | None = None
    outputs: Tensors = field(default_factory=dict)
    grad_outputs: Tensors = field(default_factory=dict)
    grad_inputs: Tensors = field(default_factory=dict)
    awaited: set[str] = field(default_factory=set)  # inputs that want a gradient

    @property
    def inputs(self) -> Tensors:
        """The tensors among the arguments."""
        return tensors_in({**dict(enumerate(self.args)), **self.kwargs})


@dataclass(frozen=True, slots=True)
class Deviation:
    """How far a row's results are from float64, and how far the reference's are; relative 2-norms.

    ``allowed`` bounds ``error``. ``reference_here`` is what the reference errs on this device, measured only
    where the row fails.
    """

    phase: str
    what: str
    error: float
    reference: float
    allowed: float
    reference_here: float | None = None

    @property
    def failed(self) -> bool:
        """Whether the row errs more than rounding explains."""
        return not self.error <= self.allowed

    @property
    def ratio(self) -> float:
        """The error as a multiple of the reference's, or of half a unit in the last place if that is more."""
        return self.error / self.reference if self.reference else math.inf


@dataclass(frozen=True, slots=True)
class Replay:
    """The verdict on one kernel call: its worst deviation in each direction, or why there is none."""

    name: str
    op: str
    row: str
    deviations: tuple[Deviation, ...] = ()
    skipped: str = ""

    @property
    def failed(self) -> bool:
        """Whether the row errs more than rounding explains, in either direction."""
        return any(deviation.failed for deviation in self.deviations)


def too_large(args: object) -> str:
    """Return "" if the call with these arguments can be repeated on the host, else why not."""
    count = sum(tensor.numel() for tensor in tensors_in(args).values())
    if count <= _MAX_ELEMENTS:
        return ""
    return f"its arguments hold {count:,} numbers, more than the {_MAX_ELEMENTS:,} that are repeated on the host"


def examine(call: KernelCall) -> Replay:
    """Repeat a call and judge its row; no tensor is kept."""
    reason = too_large(call.inputs)
    if reason:
        return Replay(call.name, call.op.id, call.row.name, skipped=reason)
    exact = _reference(call, torch.device("cpu"), exact=True)
    rounded = _reference(call, torch.device("cpu"), exact=False)
    here: _Results | None = None
    worst: list[Deviation] = []
    for phase, got in _results(call).items():
        found = [
            _deviation(phase, path, tensor, exact[phase][path], rounded[phase][path], call.row.tolerance)
            for path, tensor in got.items()
            if path in exact[phase]
        ]
        if not found:
            continue
        most = max(found, key=lambda item: (item.failed, item.error / item.allowed))
        if most.failed:
            here = here or _reference(call, _device_of(call), exact=False)
            most = _with_reference_here(most, here[phase][most.what], exact[phase][most.what])
        worst.append(most)
    return Replay(call.name, call.op.id, call.row.name, tuple(worst))


_Results = dict[str, Tensors]


def _results(call: KernelCall) -> _Results:
    """Return what the row itself computed; an input that should have had a gradient and got none has zeros."""
    if call.op.mutates:
        return {UPDATE: call.outputs}
    results = {FORWARD: call.outputs}
    if call.grad_outputs:
        inputs = call.inputs
        results[BACKWARD] = {
            path: call.grad_inputs.get(path, torch.zeros_like(inputs[path])) for path in call.awaited
        }
    return results


def _reference(call: KernelCall, device: torch.device, *, exact: bool) -> _Results:
    """Return the results of the op's reference, on ``device``, in float64 or in the formats of the call."""
    leaves: Tensors = {}

    def bring(path: str, tensor: Tensor) -> Tensor:
        copy = tensor.detach().to(device, torch.float64 if exact and tensor.is_floating_point() else None)
        copy = copy.clone() if call.op.mutates else copy
        leaves[path] = copy.detach().requires_grad_(path in call.awaited)
        return leaves[path]

    arguments = map_tensors({**dict(enumerate(call.args)), **call.kwargs}, bring)
    args = [arguments[place] for place in range(len(call.args))]
    kwargs = {name: arguments[name] for name in call.kwargs}
    reference: Kernel = load_target(call.op.target)
    with torch.enable_grad(), _autocast(device, None if exact else call.autocast):
        if call.op.mutates:
            with torch.no_grad():
                reference(*args, **kwargs)
            return {UPDATE: {path: leaves[path] for path in call.outputs}}
        outputs = tensors_in({"out": reference(*args, **kwargs)})
    results = {FORWARD: {path: tensor.detach() for path, tensor in outputs.items()}}
    if call.grad_outputs:
        results[BACKWARD] = _gradients(call, leaves, outputs)
    return results


def _gradients(call: KernelCall, leaves: Tensors, outputs: Tensors) -> Tensors:
    paths = [path for path in call.grad_outputs if outputs[path].requires_grad]
    inputs = sorted(call.awaited)
    gradients = torch.autograd.grad(
        [outputs[path] for path in paths],
        [leaves[path] for path in inputs],
        [call.grad_outputs[path].to(outputs[path]) for path in paths],
        allow_unused=True,
    )
    return {
        path: torch.zeros_like(leaves[path]) if gradient is None else gradient
        for path, gradient in zip(inputs, gradients, strict=True)
    }


def mutated_arguments(op: Op, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensors:  # Any: as KernelCall
    """Return the tensors of the arguments that ``op`` writes into, by their paths."""
    names = list(inspect.signature(load_target(op.target)).parameters)
    written = {place: value for place, value in enumerate(args) if names[place] in op.mutates}
    return tensors_in({**written, **{name: value for name, value in kwargs.items() if name in op.mutates}})


def _deviation(
    phase: str, path: str, got: Tensor, exact: Tensor, rounded: Tensor, tolerance: float
) -> Deviation:
    format_ = rounded.dtype if rounded.is_floating_point() else torch.float32
    reference = max(_error(rounded, exact), _ROUNDING * torch.finfo(format_).eps)
    return Deviation(phase, path, _error(got, exact), reference, tolerance * reference)


def _with_reference_here(deviation: Deviation, here: Tensor, exact: Tensor) -> Deviation:
    return Deviation(
        deviation.phase,
        deviation.what,
        deviation.error,
        deviation.reference,
        deviation.allowed,
        _error(here, exact),
    )


def _error(got: Tensor, exact: Tensor) -> float:
    """Return |got - exact| / |exact|; infinite for another shape, or infinities or NaN in other places."""
    got, exact = got.detach().to("cpu").double(), exact.double()
    if got.shape != exact.shape:
        return math.inf
    finite = torch.isfinite(exact)
    if not torch.equal(torch.where(finite, 0.0, exact.nan_to_num(nan=0.5)), torch.where(finite, 0.0, got.nan_to_num(nan=0.5))):
        return math.inf
    apart = float(torch.linalg.vector_norm(torch.where(finite, got - exact, 0.0)))
    size = float(torch.linalg.vector_norm(torch.where(finite, exact, 0.0)))
    if math.isnan(apart):
        return math.inf
    return apart / size if size else (math.inf if apart else 0.0)


def _autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def _device_of(call: KernelCall) -> torch.device:
    return next(iter(call.outputs.values())).device
