"""What every group refuses before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from portable.collective.protocol import ReduceOp
from portable.core.errors import CapabilityError, ShapeError

if TYPE_CHECKING:
    from torch import Tensor


class Place(Protocol):
    """What a check needs to know of a group."""

    @property
    def rank(self) -> int:
        """This process's place."""
        ...

    @property
    def size(self) -> int:
        """Number of processes."""
        ...

    @property
    def axis(self) -> str:
        """What the group is for."""
        ...


def check_reduction(tensor: Tensor, op: ReduceOp, factor: float) -> None:
    """Raises: CapabilityError for what has no meaning, whatever the communicator."""
    if factor != 1.0 and op is not ReduceOp.premul_sum:
        raise CapabilityError(f"factor={factor:g} goes with premul_sum; {op.name} takes none")
    exact = not (tensor.is_floating_point() or tensor.is_complex())
    if exact and op in (ReduceOp.mean, ReduceOp.premul_sum):
        raise CapabilityError(
            f"the {op.name} of {tensor.dtype} is not of that dtype; convert to a float or use sum"
        )
    if tensor.is_complex() and op in (ReduceOp.max, ReduceOp.min, ReduceOp.product):
        raise CapabilityError(
            f"{op.name} of {tensor.dtype} is not offered: the real and the imaginary part travel as two "
            "numbers; use sum or mean"
        )


def check_divides(tensor: Tensor, size: int, collective: str) -> None:
    """Raises: ShapeError if ``size`` does not divide the first dim."""
    if tensor.ndim == 0 or tensor.shape[0] % size:
        raise ShapeError(
            f"{collective} over {size} ranks got the shape {tuple(tensor.shape)}; "
            f"its first dim must be a multiple of {size}"
        )


def check_counts(tensor: Tensor, counts: Sequence[int], size: int) -> None:
    """Raises: ShapeError unless there is one count a rank and they add up to the first dim."""
    rows = tensor.shape[0] if tensor.ndim else 0
    if tensor.ndim == 0 or len(counts) != size or min(counts) < 0 or sum(counts) != rows:
        raise ShapeError(
            f"all_to_all_uneven of shape {tuple(tensor.shape)} over {size} ranks got the counts "
            f"{list(counts)}; give one a rank, which add up to the first dim"
        )


def check_peer(peer: int, group: Place, *, other: bool = False) -> None:
    """Raises: ShapeError for a rank that does not exist or, where it must be an ``other``, is this one."""
    if not 0 <= peer < group.size:
        known = "one rank; use 0" if group.size == 1 else f"ranks 0 to {group.size - 1}"
        raise ShapeError(f"rank {peer} was named, but the axis '{group.axis}' has {known}")
    if other and peer == group.rank:
        raise ShapeError(f"rank {peer} on axis '{group.axis}' cannot exchange with itself; use a copy")


def check_parts(parts: Sequence[Sequence[int]], size: int) -> None:
    """Raises: ShapeError unless every rank of the world is in exactly one part."""
    named = sorted(rank for part in parts for rank in part)
    if named != list(range(size)):
        raise ShapeError(
            f"split got the parts {[list(part) for part in parts]}; each of the ranks 0 to {size - 1} must "
            "be in exactly one"
        )
