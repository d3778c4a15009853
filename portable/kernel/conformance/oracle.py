"""What a row is held to: the reference's answer in float64 on the CPU, and its answer in the row's dtype."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import cast

import torch
from torch import Tensor

from portable.core.errors import CapabilityError
from portable.core.registry import load_target
from portable.kernel.conformance.case import Case, Convertible, Inputs, tensors_in, to_double
from portable.kernel.entry import Kernel
from portable.kernel.op import OPS, Op

_CPU = torch.device("cpu")
_BY_ID = {op.id: op for op in OPS}
_KEPT_ANSWERS = 512  # of small cases; all rows of an op are compared with the same ones


@dataclass(frozen=True, slots=True)
class Answer:
    """What a kernel returned or wrote, and the gradients of its leaves (None where there is none)."""

    outputs: list[Tensor]
    gradients: dict[str, Tensor | None]


@dataclass(frozen=True, slots=True)
class Expectation:
    """What is known of a case: the truth, the reference's answers, the gradients that go in.

    ``plain`` are the reference's outputs without a graph, for which torch may take other paths.
    """

    truth: Answer
    reference: Answer
    plain: list[Tensor]
    cotangents: list[Tensor | None]


def op_of(case: Case) -> Op:
    """Return the op of ``case``."""
    return _BY_ID[case.op]


@lru_cache(maxsize=_KEPT_ANSWERS)
def expect(case: Case, dtype: str, device: torch.device) -> Expectation:
    """Return the answers to ``case`` in ``dtype``; the reference computes its own on ``device``.

    Raises: CapabilityError if the reference leaves float64 on its way to the truth.
    """
    op = op_of(case)
    reference: Kernel = load_target(op.target)
    inputs = case.draw_inputs(dtype)
    placed = case.place(inputs, device, with_grad=True)
    outputs = call(reference, op, placed)
    with torch.no_grad():
        plain = call(reference, op, case.place(inputs, device))
    precise = case.place(to_double(inputs), _CPU, with_grad=True)
    truth = call(reference, op, precise)
    for output in truth:
        if output.is_floating_point() and output.dtype != torch.float64:
            raise CapabilityError(
                f"{case.id}: the reference returns {output.dtype} for float64 inputs; it can be no oracle"
            )
    cotangents = [
        _cotangent(case, index, *pair) for index, pair in enumerate(zip(outputs, truth, strict=True))
    ]
    return Expectation(
        Answer([x.detach().cpu() for x in truth], differentiate(case, precise, truth, cotangents)),
        Answer([x.detach().cpu() for x in outputs], differentiate(case, placed, outputs, cotangents)),
        [x.cpu() for x in plain],
        cotangents,
    )


def call(kernel: Kernel, op: Op, inputs: Inputs) -> list[Tensor]:
    """Call ``kernel`` as the rest of the code does; return what it returned, then what it wrote into.

    Raises: CapabilityError if it used a function that it was given otherwise than the op says.
    """
    num_positional = _num_positional(op.target)
    args = list(inputs.values())[:num_positional]
    kwargs = dict(list(inputs.items())[num_positional:])
    result = kernel(*args, **kwargs)
    written = [x for name in op.mutates for x in tensors_in(inputs[name])]
    for value in inputs.values():
        if isinstance(value, Convertible) and (complaint := value.complaint()):
            raise CapabilityError(complaint)
    return [*tensors_in(result), *written]


def differentiate(
    case: Case, inputs: Inputs, outputs: Sequence[Tensor], cotangents: Sequence[Tensor | None]
) -> dict[str, Tensor | None]:
    """Return the gradients of the leaves of ``case``, on the CPU; None where nothing depends on a leaf."""
    roots = [
        (output, cotangent.to(output.device, output.dtype))
        for output, cotangent in zip(outputs, cotangents, strict=True)
        if cotangent is not None and output.requires_grad
    ]
    if not case.leaves or not roots:
        return dict.fromkeys(case.leaves)
    found = cast(
        "Sequence[Tensor | None]",  # the stub forgets that a leaf may be unused
        torch.autograd.grad(
            [root for root, _ in roots],
            [inputs[name] for name in case.leaves],
            [cotangent for _, cotangent in roots],
            allow_unused=True,
        ),
    )
    return {
        name: None if grad is None else grad.detach().cpu()
        for name, grad in zip(case.leaves, found, strict=True)
    }


def _cotangent(case: Case, index: int, output: Tensor, truth: Tensor) -> Tensor | None:
    """Return a fixed random gradient for an output, in its dtype; 0 where the output is infinite."""
    if not output.is_floating_point() or not case.leaves:
        return None
    generator = torch.Generator().manual_seed(index)
    noise = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    return torch.where(truth.detach().isfinite(), noise, 0.0).to(output.dtype)


@cache
def _num_positional(target: str) -> int:
    """Return how many parameters of the reference are given by their place: those that have no default."""
    parameters = inspect.signature(load_target(target)).parameters.values()
    return sum(
        item.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and item.default is inspect.Parameter.empty
        for item in parameters
    )
