"""The edge of a tiled model: its caller passes and gets whole batches, of any number of rows.

Shapes: B rows of a batch, T tokens, S segments.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from portable.parallel.mesh import Mesh
from portable.parallel.shard_plan import ShardPlan
from portable.parallel.tensor import transfer
from portable.parallel.tensor.hooks import ModelHooks, is_rows
from portable.parallel.tensor.tile.tiling import Tiling

HIDDEN = 2  # the dim of hidden states (B, T, D) that ``Tiling.hidden`` cuts


class RowEdge(ModelHooks):
    """Each rank takes its rows, results are gathered.

    Batches are filled up to a multiple of the ranks that divide rows with rows of ids 0 that are no targets.
    Ids are dealt as hidden states are, what heads and losses need as those are.
    """

    no_cache = (
        "parallel.tensor_parallel_mode=2d, 2.5d and 3d divide the rows of a batch, which a cache of keys and "
        "values must see whole; use tensor_parallel_mode=1d to generate"
    )

    def __init__(self, model: nn.Module, plan: ShardPlan, tiling: Tiling, mesh: Mesh) -> None:
        super().__init__(model, plan)
        self.tiling = tiling
        self.mesh = mesh
        self.num_rows = 0

    def divide(self, given: dict[str, Any], names: list[str], *, training: bool) -> None:  # Any: arguments
        """Fill the batch up, and keep this rank's rows."""
        self.num_rows, length = given[names[0]].shape
        bounds = given.get(self.plan.segments)
        if bounds is not None:
            given[self.plan.segments] = self._own_segments(bounds, length)
        for name in names:
            axes = self.tiling.rows if name == self.plan.ids else self.tiling.inner_rows
            filled = F.pad(
                given[name], (0, 0, 0, self._padded - self.num_rows), value=self.plan.token_inputs[name]
            )
            start, count = self._own_rows(axes)
            given[name] = filled[start : start + count]

    def make_whole(self, output: Tensor) -> Tensor:
        """Gather rows, and the hidden dim where there is one."""
        if is_rows(output):
            return self._gather(output, self.tiling.inner_rows)
        group = self.mesh.group(self.tiling.hidden)
        return self._gather(
            transfer.make_whole(output, group, HIDDEN, output.shape[HIDDEN] * group.size), self.tiling.rows
        )

    def _gather(self, output: Tensor, axes: tuple[str, ...]) -> Tensor:
        for axis in reversed(axes):
            group = self.mesh.group(axis)
            output = transfer.make_whole(output, group, 0, output.shape[0] * group.size)
        return output[: self.num_rows]

    def _own_segments(self, bounds: Tensor, length: int) -> Tensor:
        """Return the bounds inside this rank's rows; a row that was filled in is a segment."""
        start, count = self._own_rows(self.tiling.inner_rows)
        filled_in = torch.arange(self.num_rows + 1, self._padded + 1, device=bounds.device) * length
        every = torch.cat((bounds, filled_in.to(bounds.dtype)))
        return torch.unique_consecutive((every - start * length).clamp(0, count * length))

    def _own_rows(self, axes: tuple[str, ...]) -> tuple[int, int]:
        start, count = 0, self._padded
        for axis in axes:
            count //= self.mesh.size(axis)
            start += self.mesh.index(axis) * count
        return start, count

    @property
    def _padded(self) -> int:
        parts = 1
        for axis in self.tiling.rows:
            parts *= self.mesh.size(axis)
        return -(-self.num_rows // parts) * parts
