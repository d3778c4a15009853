"""How a parameter lies over the mesh: cut along dims by axes, each cut made inside the one before.

A cut follows ``torch.chunk``: of a dim of n over s ranks every rank takes ceil(n / s), the last ones what is
left, which may be nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from portable.parallel.mesh import Mesh

if TYPE_CHECKING:
    from torch import Tensor, nn


def chunk(size: int, count: int, index: int) -> tuple[int, int]:
    """Return start and length of part ``index`` of ``count`` of a dim."""
    step = -(-size // count)
    start = min(index * step, size)
    return start, min(step, size - start)


@dataclass(frozen=True, slots=True)
class Cut:
    """Dim ``dim`` is divided over the ranks of ``axis``."""

    dim: int
    axis: str


@dataclass(frozen=True, slots=True)
class Extent:
    """A box inside a whole tensor: where it starts, and its shape."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]

    def of(self, whole: Tensor) -> Tensor:
        """Return the box of ``whole``, a view."""
        for dim, (start, length) in enumerate(zip(self.offset, self.shape, strict=True)):
            whole = whole.narrow(dim, start, length)
        return whole


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a parameter of global ``shape`` lies before the data strategy divides it further.

    ``partial`` names axes over which the ranks' gradients are parts of a sum, e.g. ``tp`` for a norm that
    each tensor-parallel rank applied to its own tokens, or ``pp`` for an embedding that two stages hold.
    ``data`` is the axis over which replicas read different tokens: their gradients add up, and a data
    strategy may divide the parameter over the part of it that ``shard`` names ("": not any further).
    """

    shape: tuple[int, ...]
    cuts: tuple[Cut, ...] = ()
    partial: tuple[str, ...] = ()
    data: str = "data"
    shard: str = "shard"
    replica: str = "dp"

    def cut(self, dim: int, axis: str) -> Placement:
        """Return the placement with one more cut, inside the others."""
        return replace(self, cuts=(*self.cuts, Cut(dim, axis)))

    def summed_over(self, axis: str) -> Placement:
        """Return the placement with one more axis of partial gradients."""
        return replace(self, partial=(*self.partial, axis))

    def extent(self, mesh: Mesh) -> Extent:
        """Return the box that this rank holds."""
        offset, shape = [0] * len(self.shape), list(self.shape)
        for cut in self.cuts:
            start, length = chunk(shape[cut.dim], mesh.size(cut.axis), mesh.index(cut.axis))
            offset[cut.dim] += start
            shape[cut.dim] = length
        return Extent(tuple(offset), tuple(shape))


EXPERT_PLACEMENT = {"data": "edp", "shard": "efsdp"}  # the axes of a parameter that belongs to one expert
Placements = Mapping[str, Placement]


@dataclass(frozen=True, slots=True)
class ParameterShard:
    """What the optimiser updates: this rank's part of a parameter, and where it lies in the whole.

    ``parameter`` may be a DTensor, whose local tensor is meant. ``placement`` holds all cuts, those of the
    data strategy last.
    """

    name: str
    parameter: nn.Parameter
    placement: Placement


def original_name(name: str) -> str:
    """Return a parameter's name without what wrappers put into it."""
    for word in ("module.", "_orig_mod.", "_checkpoint_wrapped_module."):
        name = name.replace(word, "") if word != "module." else name.removeprefix(word)
    return name
