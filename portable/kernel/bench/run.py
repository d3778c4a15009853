"""Measure the rows of an op on a device, beside each other and beside the roofline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from portable.core.registry import load_target
from portable.device.protocol import Device, Dtype
from portable.kernel.bench.measure import Times, measure
from portable.kernel.bench.problem import Problem, Size, make_problem
from portable.kernel.bench.roofline import Roofline
from portable.kernel.bench.work import Work, forward_work, training_work
from portable.kernel.conformance.case import Inputs, tensors_in
from portable.kernel.entry import REFERENCE, Kernel, KernelEntry
from portable.kernel.op import Op
from portable.kernel.registry import KernelSet


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured of one row: ``phase`` is "forward" or "training", which is forward and backward."""

    op: str
    row: str
    phase: str
    dtype: str
    times: Times
    work: Work
    roof_fraction: float
    ratio_to_reference: float
    default: bool


def bench_op(op: Op, device: Device, dtype: str, size: Size, roofline: Roofline) -> list[Figure]:
    """Measure every row of ``op`` that fits; none if no problem is known for it."""
    kernels = KernelSet(device.name, dtype)
    problem = make_problem(op.id, size, Dtype(dtype).torch())
    rows = kernels.candidates(op, problem.facts)
    figures = _phase(op, problem, rows, device, dtype, roofline, training=False)
    if problem.leaves:
        learning = [row for row in rows if row.differentiable]
        figures += _phase(op, problem, learning, device, dtype, roofline, training=True)
    return figures


def _phase(
    op: Op,
    problem: Problem,
    rows: list[KernelEntry],
    device: Device,
    dtype: str,
    roofline: Roofline,
    *,
    training: bool,
) -> list[Figure]:
    calls: dict[str, Callable[[], object]] = {}
    outputs: object = None
    for row in rows:
        kernel: Kernel = load_target(row.target)
        inputs = _place(problem, device.torch_device(), with_grad=training)
        call = partial(_call, kernel, op, inputs)
        outputs = call()
        calls[row.name] = partial(_step, call, problem, inputs) if training else torch.no_grad()(call)
    work = (training_work if training else forward_work)(op, problem, outputs)
    times = measure(device, calls)
    base = times[REFERENCE].min_s
    best_s = roofline.best_s(work.num_bytes, work.flops)
    phase = "training" if training else "forward"
    return [
        Figure(
            op.id,
            name,
            phase,
            dtype,
            taken,
            work,
            best_s / taken.min_s,
            taken.min_s / base,
            name == rows[0].name,
        )
        for name, taken in times.items()
    ]


def _call(kernel: Kernel, op: Op, inputs: Inputs) -> Any:  # Any: each op returns its own
    """Call with the inputs in the order of the reference's parameters; those after its star by name."""
    positional, named = _arguments(op, inputs)
    return kernel(*positional, **named)


def _arguments(op: Op, inputs: Inputs) -> tuple[list[Any], dict[str, Any]]:  # Any: see Inputs
    tensors = [value for value in inputs.values() if _is_operand(value)]
    if op.name == "moe_permute":
        return [*tensors, inputs["num_experts"]], {}
    named = {name: value for name, value in inputs.items() if not _is_operand(value)}
    return tensors, named


def _is_operand(value: object) -> bool:
    return next(iter(tensors_in(value)), None) is not None


def _step(call: Callable[[], object], problem: Problem, inputs: Inputs) -> object:
    outputs = [x for x in tensors_in(call()) if x.requires_grad]
    leaves = [inputs[name] for name in problem.leaves]
    return torch.autograd.grad(outputs, leaves, [torch.ones_like(x) for x in outputs])


def _place(problem: Problem, place: torch.device, *, with_grad: bool) -> Inputs:
    placed: Inputs = {}
    for name, value in problem.inputs.items():
        if isinstance(value, torch.Tensor):
            value = value.to(place, copy=True).requires_grad_(with_grad and name in problem.leaves)
        elif isinstance(value, list):
            value = [x.to(place, copy=True) for x in value]
        placed[name] = value
    return placed
