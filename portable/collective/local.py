"""The group of one process: what a laptop and most tests use."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from portable.collective.check import check_counts, check_divides, check_parts, check_peer, check_reduction
from portable.collective.node import NodeGroups
from portable.collective.protocol import WORLD_AXIS, ReduceOp
from portable.core.errors import ShapeError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup


class NothingUnderWay:
    """An exchange with nobody."""

    def take(self, place: int) -> Tensor:
        """Raises: ShapeError: nothing was asked for."""
        raise ShapeError(f"an exchange with nobody has no tensor {place}; take what receives named")

    def wait(self) -> list[Tensor]:
        """Return nothing."""
        return []


class LocalGroup:
    """Collectives over one rank; each returns a copy, as a real group does, and refuses what one refuses."""

    rank = 0
    size = 1
    local_rank = 0
    ranks = (0,)
    communicator = "local"
    process_group: ProcessGroup | None = None

    def __init__(self, axis: str = WORLD_AXIS) -> None:
        self.axis = axis

    def resolution(self) -> dict[str, str]:
        """Return one line: nothing travels."""
        return {"all": "one process: every collective is a copy"}

    def all_reduce(self, tensor: Tensor, op: ReduceOp = ReduceOp.sum, *, factor: float = 1.0) -> Tensor:
        """Return a copy, scaled for ``premul_sum``."""
        check_reduction(tensor, op, factor)
        return tensor * factor if op is ReduceOp.premul_sum else tensor.clone()

    def all_reduce_many(
        self, tensors: Sequence[Tensor], op: ReduceOp = ReduceOp.sum, *, factor: float = 1.0
    ) -> list[Tensor]:
        """Return copies."""
        return [self.all_reduce(tensor, op, factor=factor) for tensor in tensors]

    def reduce_scatter(self, tensor: Tensor, op: ReduceOp = ReduceOp.sum, *, factor: float = 1.0) -> Tensor:
        """Return a copy."""
        check_divides(tensor, 1, "reduce_scatter")
        return self.all_reduce(tensor, op, factor=factor)

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return a copy with a first dim of 1."""
        return tensor.clone().unsqueeze(0)

    def all_gather_uneven(self, tensor: Tensor) -> list[Tensor]:
        """Return one copy."""
        check_divides(tensor, 1, "all_gather_uneven")
        return [tensor.clone()]

    def all_to_all(self, tensor: Tensor) -> Tensor:
        """Return a copy."""
        check_divides(tensor, 1, "all_to_all")
        return tensor.clone()

    def all_to_all_uneven(
        self, tensor: Tensor, send_counts: Sequence[int], receive_counts: Sequence[int] | None = None
    ) -> tuple[Tensor, list[int]]:
        """Return a copy and its number of rows."""
        check_counts(tensor, send_counts, 1)
        return tensor.clone(), list(send_counts)

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        """Return a copy."""
        check_peer(source, self)
        return tensor.clone()

    def broadcast_many(self, tensors: Sequence[Tensor], source: int = 0) -> list[Tensor]:
        """Return copies."""
        return [self.broadcast(tensor, source) for tensor in tensors]

    def gather(self, tensor: Tensor, target: int = 0) -> Tensor | None:
        """Return a copy with a first dim of 1."""
        check_peer(target, self)
        return self.all_gather(tensor)

    def scatter(self, tensor: Tensor, source: int = 0) -> Tensor:
        """Return a copy."""
        check_peer(source, self)
        check_divides(tensor, 1, "scatter")
        return tensor.clone()

    def send(self, tensor: Tensor, target: int) -> None:
        """Raises: ShapeError: nobody else is there."""
        check_peer(target, self, other=True)

    def recv(self, like: Tensor, source: int) -> Tensor:
        """Raises: ShapeError: nobody else is there."""
        check_peer(source, self, other=True)
        return like

    def exchange(
        self, sends: Sequence[tuple[Tensor, int]], receives: Sequence[tuple[Tensor, int]]
    ) -> list[Tensor]:
        """Return nothing for nothing. Raises: ShapeError for any peer."""
        for _, peer in (*sends, *receives):
            check_peer(peer, self, other=True)
        return []

    def begin_exchange(
        self, sends: Sequence[tuple[Tensor, int]], receives: Sequence[tuple[Tensor, int]]
    ) -> NothingUnderWay:
        """Return the end of nothing. Raises: ShapeError for any peer."""
        self.exchange(sends, receives)
        return NothingUnderWay()

    def sum_scalar(self, value: float) -> float:
        """Return the value."""
        return float(value)

    def broadcast_object(self, value: Any, source: int = 0) -> Any:  # Any: any object
        """Return the object itself."""
        check_peer(source, self)
        return value

    def all_gather_object(self, value: Any) -> list[Any]:  # Any: any object
        """Return the object itself, in a list."""
        return [value]

    def barrier(self) -> None:
        """Return at once."""

    def split(self, axis: str, parts: Sequence[Sequence[int]]) -> LocalGroup:
        """Return another group of one. Raises: ShapeError unless there is one part, of rank 0."""
        check_parts(parts, 1)
        return LocalGroup(axis)

    def subgroup(self, axis: str, ranks: Sequence[int]) -> LocalGroup | None:
        """Return another group of one."""
        for rank in ranks:
            check_peer(rank, self)
        return LocalGroup(axis) if ranks else None

    def by_node(self) -> NodeGroups:
        """Return two groups of one."""
        return NodeGroups(LocalGroup("node"), LocalGroup("between_nodes"))

    def naming_ranks(self, what: str) -> AbstractContextManager[None]:
        """Do nothing: there is no other rank to name."""
        return contextlib.nullcontext()

    def close(self) -> None:
        """Do nothing."""
