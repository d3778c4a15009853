"""The group of one process: what a laptop and most tests use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from portable.collective.protocol import ReduceOp
from portable.core.errors import ShapeError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup


class LocalGroup:
    """Collectives over one rank; each returns a copy, as a real group does."""

    rank = 0
    size = 1
    local_rank = 0
    communicator = "local"
    process_group: ProcessGroup | None = None

    def all_reduce(self, tensor: Tensor, op: ReduceOp = ReduceOp.sum) -> Tensor:
        """Return a copy."""
        return tensor.clone()

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return a copy with a first dim of 1."""
        return tensor.clone().unsqueeze(0)

    def reduce_scatter(self, tensor: Tensor, op: ReduceOp = ReduceOp.sum) -> Tensor:
        """Return a copy."""
        return tensor.clone()

    def all_to_all(self, tensor: Tensor) -> Tensor:
        """Return a copy."""
        return tensor.clone()

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        """Return a copy. Raises: ShapeError for a source other than 0."""
        _check_source(source)
        return tensor.clone()

    def sum_scalar(self, value: float) -> float:
        """Return the value."""
        return float(value)

    def broadcast_object(self, value: Any, source: int = 0) -> Any:  # Any: any object
        """Return the object itself. Raises: ShapeError for a source other than 0."""
        _check_source(source)
        return value

    def barrier(self) -> None:
        """Return at once."""

    def close(self) -> None:
        """Do nothing."""


def _check_source(source: int) -> None:
    if source != 0:
        raise ShapeError(f"source={source}, but the group has one rank; use source=0")
