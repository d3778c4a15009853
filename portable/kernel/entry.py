"""A row: one implementation of an op on one backend."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from portable.kernel.op import OPS, STANDARD, Op, find_op

Kernel = Callable[..., Any]  # each op has its own signature, written in its reference
Constraint = Callable[[Mapping[str, Any]], str]
"""Takes an op's facts; returns "" if the row takes them, else why not, e.g. "head_dim 100 > 96"."""

REFERENCE = "reference"
ANY = "any"  # the backend of rows in plain torch, which fit every device


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelEntry:
    """One row: ``target`` implements a variant of ``op`` on ``backend`` for runs that compute in ``dtypes``.

    ``name`` is what a config says to choose the row; of the rows that fit, the highest ``priority`` wins. A
    row is called with tensors of the run's dtype and of float32, mixed, contiguous or not, of any size
    including 0: it takes them all, or ``constraint`` says no beforehand. ``tolerance`` bounds its error, as
    a multiple of the reference's own error in that dtype. ``requires`` names packages that must be
    installed. A row whose code needs the data's address, as a library in C++ does, is registered with
    ``torch.library`` and has a fake, so that compilers can see through it; reading data to choose a path is
    allowed. ``portable verify kernels`` examines all of this.
    """

    op: str
    name: str
    backend: str
    target: str
    variant: str = STANDARD
    dtypes: tuple[str, ...] = ("fp32", "bf16", "fp16")
    constraint: Constraint | None = None
    priority: int = 0
    differentiable: bool = True
    deterministic: bool = True
    tolerance: float = 4.0
    requires: tuple[str, ...] = ()

    @property
    def spec(self) -> Op:
        """The op that the row implements."""
        return find_op(self.op, self.variant)

    def refusal(self, dtype: str, facts: Mapping[str, Any]) -> str:
        """Return "" if the row can compute in ``dtype`` with complete ``facts``, else why not.

        Nothing is imported for it.
        """
        if dtype not in self.dtypes:
            return f"the row takes {', '.join(self.dtypes)}, not {dtype}"
        missing = [package for package in self.requires if find_spec(package) is None]
        if missing:
            return f"it needs {', '.join(missing)}, not installed"
        return self.constraint(facts) if self.constraint else ""


REFERENCE_ENTRIES = tuple(
    KernelEntry(
        op=op.name,
        variant=op.variant,
        name=REFERENCE,
        backend=ANY,
        target=op.target,
        priority=-100,
        tolerance=1.0,
        differentiable=op.differentiable,
    )
    for op in OPS
)
