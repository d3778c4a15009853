"""A group of processes, one per device, that exchange tensors.

Every collective must be called by all ranks in the same order, with tensors of the same dtype and (unless its
name ends in ``_uneven``) the same shape. Results are new tensors; inputs are not changed. A reduction keeps
the dtype of its input.

Shapes: n is the first dim of a rank's block, ... any further dims.

Raises, in every collective: CollectiveError, naming the rank and the axis, if a rank is late, gone or out of
step; CapabilityError, before anything is sent, for what the communicator can neither do nor be helped to.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup

    from portable.collective.node import NodeGroups

WORLD_AXIS = "world"


class ReduceOp(Enum):
    """How values of all ranks become one; the names that a capability's ``reduce_ops`` uses."""

    sum = "sum"  # of booleans: whether any is true
    mean = "mean"
    max = "max"
    min = "min"
    product = "product"  # of booleans: whether all are true
    premul_sum = "premul_sum"  # each rank's values times its ``factor``, then the sum


class Collective(Enum):
    """What a communicator may do itself; the names that a capability's ``collectives`` uses.

    Bytes (uint8) it must always carry: formats that it does not know travel as such.
    """

    all_reduce = "all_reduce"
    reduce_scatter = "reduce_scatter"
    all_gather = "all_gather"
    all_to_all = "all_to_all"
    broadcast = "broadcast"
    gather = "gather"
    scatter = "scatter"
    send_recv = "send_recv"


class Exchange(Protocol):
    """Tensors on their way between ranks. On a device that works on its own the host never waits."""

    def take(self, place: int) -> Tensor:
        """Return what ``receives[place]`` asked for, once it is there; the rest may still be on its way, if
        the transport can tell them apart. Each is handed over once.
        """
        ...

    def wait(self) -> list[Tensor]:
        """Wait for everything, and return what was received and not taken, in order."""
        ...


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
    def axis(self) -> str:
        """What the group is for, e.g. ``tp``; every error carries it."""
        ...

    @property
    def ranks(self) -> tuple[int, ...]:
        """The members' ranks in the world, in the order of the group."""
        ...

    @property
    def communicator(self) -> str:
        """What carries the tensors, e.g. ``local``."""
        ...

    @property
    def process_group(self) -> ProcessGroup | None:
        """The torch group beneath, for wrappers that need one; None for one process alone."""
        ...

    def resolution(self) -> dict[str, str]:
        """Return for each collective, reduction and number format what was chosen, and why."""
        ...

    def all_reduce(self, tensor: Tensor, op: ReduceOp = ReduceOp.sum, *, factor: float = 1.0) -> Tensor:
        """Return the reduction over all ranks; same shape and dtype. ``factor`` is for ``premul_sum``."""
        ...

    def all_reduce_many(
        self, tensors: Sequence[Tensor], op: ReduceOp = ReduceOp.sum, *, factor: float = 1.0
    ) -> list[Tensor]:
        """Reduce many small tensors in one call per dtype."""
        ...

    def reduce_scatter(self, tensor: Tensor, op: ReduceOp = ReduceOp.sum, *, factor: float = 1.0) -> Tensor:
        """Reduce (size * n, ...) over ranks and return this rank's (n, ...)."""
        ...

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return all ranks' tensors stacked along a new first dim: (size, *shape)."""
        ...

    def all_gather_uneven(self, tensor: Tensor) -> list[Tensor]:
        """Return all ranks' (n, ...), whose n may differ, in rank order."""
        ...

    def all_to_all(self, tensor: Tensor) -> Tensor:
        """Send the r-th of ``size`` equal slices of the first dim to rank r; return what was received, in
        rank order."""
        ...

    def all_to_all_uneven(
        self, tensor: Tensor, send_counts: Sequence[int], receive_counts: Sequence[int] | None = None
    ) -> tuple[Tensor, list[int]]:
        """Send ``send_counts[r]`` rows to rank r; return the rows received, in rank order, and their counts.

        Without ``receive_counts`` the ranks tell each other first, over the host.
        """
        ...

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        """Return ``source``'s tensor on every rank."""
        ...

    def broadcast_many(self, tensors: Sequence[Tensor], source: int = 0) -> list[Tensor]:
        """Return ``source``'s tensors on every rank, in one call per dtype."""
        ...

    def gather(self, tensor: Tensor, target: int = 0) -> Tensor | None:
        """Return all ranks' tensors as (size, *shape) on ``target``, None elsewhere."""
        ...

    def scatter(self, tensor: Tensor, source: int = 0) -> Tensor:
        """Return the rank-th (n, ...) of ``source``'s (size * n, ...).

        Other ranks' values do not matter, their shape does.
        """
        ...

    def send(self, tensor: Tensor, target: int) -> None:
        """Send to one rank, which calls ``recv``."""
        ...

    def recv(self, like: Tensor, source: int) -> Tensor:
        """Return what ``source`` sends: a tensor with shape, dtype and device of ``like``."""
        ...

    def exchange(
        self, sends: Sequence[tuple[Tensor, int]], receives: Sequence[tuple[Tensor, int]]
    ) -> list[Tensor]:
        """Send to and receive from several ranks at once, whatever the order of the lists.

        ``sends`` holds (tensor, target), ``receives`` (tensor of the shape expected, source); between two
        ranks the n-th sent is the n-th received. Only the ranks named need to call.
        """
        ...

    def begin_exchange(
        self, sends: Sequence[tuple[Tensor, int]], receives: Sequence[tuple[Tensor, int]]
    ) -> Exchange:
        """Begin what ``exchange`` does, and return at once; tensors sent must not change before the end.

        Every begun exchange must be waited for. Ranks begin the exchanges that they share in one order.
        """
        ...

    def sum_scalar(self, value: float) -> float:
        """Add a host number over ranks, in float64; the device does not wait."""
        ...

    def broadcast_object(self, value: Any, source: int = 0) -> Any:  # Any: any picklable object
        """Return ``source``'s object on every rank."""
        ...

    def all_gather_object(self, value: Any) -> list[Any]:  # Any: any picklable object
        """Return all ranks' objects, in rank order."""
        ...

    def barrier(self) -> None:
        """Wait for all ranks."""
        ...

    def split(self, axis: str, parts: Sequence[Sequence[int]]) -> Group:
        """Split the world into groups of these ranks; return the one that this rank is in.

        Raises: ShapeError unless every rank is in exactly one part.
        """
        ...

    def subgroup(self, axis: str, ranks: Sequence[int]) -> Group | None:
        """Return a group of these ranks, None for others. All ranks of the world must call."""
        ...

    def by_node(self) -> NodeGroups:
        """Return this rank's group inside its node and the one between the nodes.

        Raises: CapabilityError if nodes have different numbers of ranks.
        """
        ...

    def naming_ranks(self, what: str) -> AbstractContextManager[None]:
        """Turn the transport's errors in the block, in which torch itself communicates, into one that names
        the rank and the axis. All ranks must enter it, in the same order as their collectives.
        """
        ...

    def close(self) -> None:
        """Leave the group."""
        ...
