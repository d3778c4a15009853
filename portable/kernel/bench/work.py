"""What an op must do at least for its problem: bytes moved and floating-point operations."""

from __future__ import annotations

from dataclasses import dataclass

from portable.kernel.bench.problem import Problem
from portable.kernel.conformance.case import tensors_in
from portable.kernel.op import Op


@dataclass(frozen=True, slots=True)
class Work:
    """Of one call."""

    num_bytes: float
    flops: float


def forward_work(op: Op, problem: Problem, outputs: object) -> Work:
    """Every input is read once and every output written once; what is mutated is both read and written."""
    given = sum(x.nbytes for x in tensors_in(list(problem.inputs.values())))
    read = problem.read_bytes if problem.read_bytes is not None else given
    mutated = sum(
        x.nbytes for name, value in problem.inputs.items() if name in op.mutates for x in tensors_in(value)
    )
    written = mutated + sum(x.nbytes for x in tensors_in(outputs))
    return Work(float(read + written), problem.flops)


def training_work(op: Op, problem: Problem, outputs: object) -> Work:
    """Forward and backward: the inputs are read once more, the outputs' gradients read, the inputs' written.

    A matmul has two for its gradients.
    """
    forward = forward_work(op, problem, outputs)
    gradients = sum(x.nbytes for name in problem.leaves for x in tensors_in(problem.inputs[name]))
    return Work(2 * forward.num_bytes + gradients, 3 * forward.flops)
