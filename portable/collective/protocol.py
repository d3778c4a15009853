"""A group of processes, one per device, that exchange tensors.

Every collective must be called by all ranks in the same order. Reductions return the result; inputs are not
changed.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup


class ReduceOp(Enum):
    """How values of all ranks become one."""

    sum = "sum"
    mean = "mean"
    max = "max"
    min = "min"


class Group(Protocol):
    """Ranks ``0 .. size - 1``; this process is ``rank``."""

    @property
    def rank(self) -> int:
        """This process's place in the group."""
        ...

    @property
    def size(self) -> int:
        """Number of processes."""
        ...

    @property
    def local_rank(self) -> int:
        """This process's place on its node; also the index of its device."""
        ...

    @property
    def communicator(self) -> str:
        """What carries the tensors, e.g. ``local``."""
        ...

    @property
    def process_group(self) -> ProcessGroup | None:
        """The torch group beneath, for wrappers that need one; None for one process alone."""
        ...

    def all_reduce(self, tensor: Tensor, op: ReduceOp = ReduceOp.sum) -> Tensor:
        """Return the reduction over all ranks; same shape and dtype."""
        ...

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return all ranks' tensors stacked along a new first dim: (size, *shape)."""
        ...

    def reduce_scatter(self, tensor: Tensor, op: ReduceOp = ReduceOp.sum) -> Tensor:
        """Reduce (size * n, ...) over ranks and return this rank's (n, ...)."""
        ...

    def all_to_all(self, tensor: Tensor) -> Tensor:
        """Send the r-th of ``size`` equal slices of the first dim to rank r; return what was received, in
        rank order."""
        ...

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        """Return ``source``'s tensor on every rank."""
        ...

    def sum_scalar(self, value: float) -> float:
        """Add a host number over ranks, in float64."""
        ...

    def broadcast_object(self, value: Any, source: int = 0) -> Any:  # Any: any picklable object
        """Return ``source``'s object on every rank."""
        ...

    def barrier(self) -> None:
        """Wait for all ranks."""
        ...

    def close(self) -> None:
        """Leave the group."""
        ...
