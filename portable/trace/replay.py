"""One kernel call, done again by its reference: in float64, which is the truth here, and in its own formats.

Both run on the host, so that neither the device's kernels nor its operators have a say. As in the conformance
tests, the row may err a few times as much as the reference does in the same formats (its ``tolerance``), and
no more: what rounding explains cancels out of that comparison.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from portable.core.registry import load_target
from portable.kernel.conformance import measure
from portable.kernel.entry import Kernel, KernelEntry
from portable.kernel.op import Op
from portable.trace.arguments import map_tensors, split_arguments, tensors_in

FORWARD, BACKWARD, UPDATE = "forward", "backward", "update"
_MAX_ELEMENTS = 2**30  # of all arguments; in float64, with gradients, that is some 32 GiB of host memory
_LIMIT = 4.0  # the reference, too, rounds in another order on another device
Tensors = dict[str, Tensor]


@dataclass(slots=True)
class KernelCall:
    """What went into a kernel and what came out, forward and backward; tensors by their paths.

    The first ``num_positional`` arguments were given by place. Of an op that writes into its arguments they
    are from before the call, and ``outputs`` are what was written. ``autocast`` is the number format that
    autocast computed in, if it was on.
    """

    name: str
    op: Op
    row: KernelEntry
    arguments: dict[str, Any]  # Any: each op has its own signature
    num_positional: int
    autocast: torch.dtype | None = None
    outputs: Tensors = field(default_factory=dict)
    grad_outputs: Tensors = field(default_factory=dict)
    grad_inputs: Tensors = field(default_factory=dict)
    awaited: set[str] = field(default_factory=set)  # inputs that want a gradient

    @property
    def inputs(self) -> Tensors:
        """The tensors among the arguments."""
        return tensors_in(self.arguments)


@dataclass(frozen=True, slots=True)
class Deviation:
    """The worst result of a row: which tensor, and its error as a multiple of the reference's.

    ``limit`` is the largest ``ratio`` that is allowed, ``text`` the place of the worst number.
    ``reference_here`` is the ratio of the reference on this device, measured only where the row fails.
    """

    phase: str
    tensor: str
    ratio: float
    limit: float
    text: str
    reference_here: float | None = None

    @property
    def failed(self) -> bool:
        """Whether the row errs more than rounding explains."""
        return not self.ratio <= self.limit


@dataclass(frozen=True, slots=True)
class Replay:
    """The verdict on one kernel call: its worst deviation in each phase, or why there is none."""

    name: str
    op: str
    row: str
    deviations: tuple[Deviation, ...] = ()
    skipped: str = ""

    @property
    def failure(self) -> Deviation | None:
        """The first phase in which the row errs more than rounding explains."""
        return next((deviation for deviation in self.deviations if deviation.failed), None)


def too_large(call: KernelCall) -> str:
    """Return "" if the call can be repeated on the host, else why not."""
    count = sum(tensor.numel() for tensor in call.inputs.values())
    if count <= _MAX_ELEMENTS:
        return ""
    return (
        f"its arguments hold {count:,} numbers, more than the {_MAX_ELEMENTS:,} that are repeated on the host"
    )


def examine(call: KernelCall) -> Replay:
    """Repeat a call and judge its row; no tensor is kept."""
    reason = too_large(call)
    if reason:
        return Replay(call.name, call.op.id, call.row.name, skipped=reason)
    host = torch.device("cpu")
    try:
        truth, reference = _repeat(call, host, exact=True), _repeat(call, host, exact=False)
    except RuntimeError as error:  # torch's, e.g. for a number format that the host has no operator for
        told = f"its reference cannot be repeated on the host: {error}"
        return Replay(call.name, call.op.id, call.row.name, skipped=told)
    worst: list[Deviation] = []
    for phase, got in _results(call).items():
        limit = max(call.row.tolerance, _LIMIT)
        found = _deviations(phase, got, truth[phase], reference[phase], call.grad_outputs, limit)
        most = max(found, key=lambda item: item.ratio, default=None)
        if most is not None and most.failed:
            here = _repeat(call, got[most.tensor].device, exact=False)[phase]
            again = _deviations(phase, here, truth[phase], reference[phase], call.grad_outputs, limit)
            most = replace(most, reference_here=max(item.ratio for item in again))
        worst += [] if most is None else [most]
    return Replay(call.name, call.op.id, call.row.name, tuple(worst))


_Results = dict[str, Tensors]


def _results(call: KernelCall) -> _Results:
    """Return what the row computed; an input that should have had a gradient and got none has zeros."""
    if call.op.mutates:
        return {UPDATE: call.outputs}
    results = {FORWARD: call.outputs}
    if call.grad_outputs:
        inputs = call.inputs
        results[BACKWARD] = {
            path: call.grad_inputs[path] if path in call.grad_inputs else torch.zeros_like(inputs[path])
            for path in sorted(call.awaited)
        }
    return results


def _repeat(call: KernelCall, device: torch.device, *, exact: bool) -> _Results:
    """Return the results of the op's reference, on ``device``, in float64 or in the formats of the call."""
    leaves: Tensors = {}

    def bring(path: str, tensor: Tensor) -> Tensor:
        dtype = torch.float64 if exact and tensor.is_floating_point() else tensor.dtype
        copy = tensor.detach().to(device, dtype, copy=True)
        leaves[path] = copy.requires_grad_(path in call.awaited)
        return leaves[path]

    args, kwargs = split_arguments(map_tensors(call.arguments, bring), call.num_positional)
    reference: Kernel = load_target(call.op.target)
    # Within a backward pass both are off, and gradients are asked of the reference there.
    with torch.set_grad_enabled(not call.op.mutates), _autocast(device, None if exact else call.autocast):
        result = reference(*args, **kwargs)
    if call.op.mutates:
        return {UPDATE: {path: leaves[path] for path in call.outputs}}
    outputs = tensors_in(result)
    results = {FORWARD: {path: tensor.detach() for path, tensor in outputs.items()}}
    if call.grad_outputs:
        results[BACKWARD] = _gradients(call, leaves, outputs)
    return results


def _gradients(call: KernelCall, leaves: Tensors, outputs: Tensors) -> Tensors:
    paths = [path for path in call.grad_outputs if outputs[path].requires_grad]
    inputs = sorted(call.awaited)
    if not paths:  # the row gives a gradient where the reference says that there is none
        return {path: torch.zeros_like(leaves[path]) for path in inputs}
    gradients = torch.autograd.grad(
        [outputs[path] for path in paths],
        [leaves[path] for path in inputs],
        [call.grad_outputs[path].to(outputs[path].device, outputs[path].dtype) for path in paths],
        materialize_grads=True,
    )
    return dict(zip(inputs, gradients, strict=True))


def mutated_tensors(call: KernelCall) -> Tensors:
    """Return the tensors that the op writes into."""
    return tensors_in({name: value for name, value in call.arguments.items() if name in call.op.mutates})


def _deviations(
    phase: str, got: Tensors, truth: Tensors, reference: Tensors, cotangents: Tensors, limit: float
) -> list[Deviation]:
    """Compare results, tensor by tensor, with the truth, and the reference's with it."""
    sizes: dict[str, Tensor | float]
    if phase == BACKWARD:
        measured = measure.gradient_sizes([truth[path] for path in got], list(cotangents.values()))
        sizes = dict(zip(got, measured, strict=True))
    else:
        sizes = {path: measure.output_sizes(truth[path], _typical(truth[path])) for path in got}
    longest = max((tensor.numel() for tensor in got.values()), default=0)
    found: list[Deviation] = []
    for path, tensor in got.items():
        if tensor.shape != truth[path].shape:
            shapes = f"its shape is {tuple(tensor.shape)} instead of {tuple(truth[path].shape)}"
            found.append(Deviation(phase, path, math.inf, limit, shapes))
            continue
        own = measure.compare(tensor, truth[path], sizes[path])
        allowed = measure.compare(reference[path], truth[path], sizes[path])
        # The gradient of a weight is a sum over tokens that cancel: n of them may be off by sqrt(n) units.
        terms = longest / max(tensor.numel(), 1) if phase == BACKWARD else 1.0
        ratio = own.units / max(allowed.units, math.sqrt(terms))
        found.append(Deviation(phase, path, ratio, limit, own.fault or own.text))
    return found


def _typical(truth: Tensor) -> float:
    """Return the root mean square of the finite numbers: no vector's error is measured by less."""
    finite = truth[truth.isfinite()].double()
    return float(finite.square().mean().sqrt()) if finite.numel() else 0.0


def _autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)
