"""The ranks of a run as a mesh: one group for every axis of its layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portable.collective.local import LocalGroup
from portable.collective.protocol import Group
from portable.core.errors import ConfigError, did_you_mean
from portable.parallel.layout import AXES, EXPERT, JOINT, Layout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.distributed.device_mesh import DeviceMesh


class Mesh:
    """Groups by the name of an axis; all are made here, since every rank must take part in making them.

    An axis of degree 1 has a group of this rank alone. Axes that span the same ranks share one group.
    """

    def __init__(self, layout: Layout, world: Group, torch_type: str) -> None:
        if layout.world_size != world.size:
            raise ConfigError(
                f"the layout {layout} needs {layout.world_size} processes, but there are {world.size}"
            )
        self.layout = layout
        self.world = world
        self.torch_type = torch_type
        self.coordinates = layout.coordinates(world.rank)
        self._made: dict[tuple[tuple[int, ...], ...], Group] = {
            (tuple(range(world.size)),): world,
        }
        self._groups: dict[str, Group] = {"world": world}
        for axis in (*AXES, *JOINT, *EXPERT):
            self._groups[axis] = self._make(axis, layout.parts(axis))

    def group(self, axis: str) -> Group:
        """Return the group of the ranks that differ from this one on ``axis`` only."""
        if axis not in self._groups:
            raise ConfigError(
                f"the mesh has no axis '{axis}'.{did_you_mean(axis, self._groups)} "
                f"Axes: {', '.join(self._groups)}"
            )
        return self._groups[axis]

    def size(self, axis: str) -> int:
        """Return the number of ranks along ``axis``."""
        return self.group(axis).size

    def index(self, axis: str) -> int:
        """Return this rank's place along ``axis``."""
        return self.group(axis).rank

    def fold(self, axis: str, names: Sequence[str], sizes: Sequence[int]) -> None:
        """Give ``axis`` an inner grid: rank i of it stands at the coordinates of i, the last fastest.

        Each name becomes an axis of its own. All ranks of the world must call. A name that stands is kept.
        Raises: ConfigError if the sizes do not multiply to that of the axis.
        """
        total = 1
        for size in sizes:
            total *= size
        if total != self.size(axis):
            shape = " × ".join(map(str, sizes))
            raise ConfigError(f"axis {axis} has {self.size(axis)} ranks, which are no grid of {shape}")
        stride = total
        for name, size in zip(names, sizes, strict=True):
            stride //= size
            parts = [
                [line[start + step * stride] for step in range(size)]
                for line in self.layout.parts(axis)
                for start in range(total)
                if (start // stride) % size == 0
            ]
            self._groups[name] = self._make(name, parts)

    def tie(self, axis: str, over: str, places: Sequence[int]) -> None:
        """Join the ranks at ``places`` along the axis ``over`` in an axis of their own; others are alone in
        theirs. All ranks of the world must call. An axis that stands is kept.
        """
        if axis in self._groups:
            return
        self._groups[axis] = LocalGroup(axis)
        for line in self.layout.parts(over):
            joined = self.world.subgroup(axis, [line[place] for place in places])
            self._groups[axis] = joined or self._groups[axis]

    def torch_mesh(self, *axes: str) -> DeviceMesh:
        """Return torch's mesh over the ranks that differ from this one on ``axes``, for torch's own wrappers.

        Axes of degree 1 are left out; the last varies fastest.
        """
        import torch
        from torch.distributed.device_mesh import DeviceMesh

        groups = [self.group(axis) for axis in axes if self.size(axis) > 1]
        names = tuple(axis for axis in axes if self.size(axis) > 1)
        handles = [group.process_group for group in groups]
        whole = [handle for handle in handles if handle is not None]
        if len(whole) == 1:
            return DeviceMesh.from_group(whole[0], self.torch_type, mesh_dim_names=names)
        return DeviceMesh.from_group(
            whole, self.torch_type, torch.tensor(self._grid(axes)), mesh_dim_names=names
        )

    def _grid(self, axes: Sequence[str]) -> list[list[int]]:
        """Return the ranks of two axes as rows of the first; this rank is among them."""
        outer, inner = (axis for axis in axes if self.size(axis) > 1)
        row_of = {rank: part for part in self.layout.parts(inner) for rank in part}
        column_of = {rank: part for part in self.layout.parts(outer) for rank in part}
        return [row_of[rank] for rank in column_of[row_of[self.world.rank][0]]]

    def _make(self, axis: str, parts: list[list[int]]) -> Group:
        if len(parts[0]) == 1:
            return LocalGroup(axis)
        key = tuple(map(tuple, parts))
        if key not in self._made:
            self._made[key] = self.world.split(axis, parts)
        return self._made[key]
