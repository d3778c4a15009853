"""Linear layers whose weight is used a tile at a time, forward and backward: no more than a tile of it is
ever gathered from other ranks, or copied into the format of a matmul.

Shapes: M rows (tokens of all sequences), K in, O out, S ranks that hold the weight's rows, R rows of each, T
of them in a tile.
Source: DeepSpeed's TiledLinear (Rajbhandari et al. 2021, arXiv:2104.07857, section 5.1.2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from portable.collective.local import LocalGroup
from portable.collective.protocol import Group
from portable.kernel.reference.precision import accumulation_dtype, linear_dtype
from portable.parallel.placement import chunk

Tile = tuple[slice, slice]


class ChunkedLinear(nn.Module):
    """Takes the place of ``linear``, whose parameters it has. A tile holds at most ``tile_bytes``, or one row
    of every rank and a part of its columns.

    A data strategy that divides weights calls ``divide``; the rows then stay where they are, and a tile is
    gathered while it is used.
    """

    def __init__(self, linear: nn.Linear, tile_bytes: int) -> None:
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        self.weight = linear.weight
        self.bias: nn.Parameter | None = linear.bias
        self.tile_bytes = tile_bytes
        self.group: Group = LocalGroup("shard")
        self.reduce_dtype = linear.weight.dtype

    def divide(self, group: Group, reduce_dtype: torch.dtype) -> None:
        """Leave this rank its rows, as ``torch.chunk`` does; gradients add up in ``reduce_dtype``."""
        self.group, self.reduce_dtype = group, reduce_dtype
        own = self.weight.detach().narrow(0, *chunk(self.out_features, group.size, group.rank))
        self.weight = nn.Parameter(own.clone(), self.weight.requires_grad)

    @property
    def rows(self) -> int:
        """R: those of a rank that has all its rows."""
        return -(-self.out_features // self.group.size)

    def forward(self, x: Tensor) -> Tensor:
        """Return x Wᵀ + b for x (..., K), in the format of a linear layer here and now."""
        out: Tensor = _Chunked.apply(x.reshape(-1, self.in_features), self.weight, self, linear_dtype(x))
        out = out.view(*x.shape[:-1], self.out_features)
        return out if self.bias is None else out + self.bias.to(out.dtype)

    def tiles(self, dtype: torch.dtype) -> Iterator[Tile]:
        """Yield rows and columns of tiles; the same on all ranks, whatever rows they hold."""
        numbers = max(1, self.tile_bytes // (self.group.size * dtype.itemsize))
        columns = min(self.in_features, numbers)
        rows = max(1, numbers // self.in_features)
        for top in range(0, self.rows, rows):
            for left in range(0, self.in_features, columns):
                yield slice(top, min(top + rows, self.rows)), slice(left, left + columns)

    def gather(self, weight_RK: Tensor, tile: Tile, dtype: torch.dtype) -> Tensor:
        """Return a tile of all ranks, (S · T, columns); zeros stand for rows that there are not."""
        rows, _ = tile
        own = weight_RK[tile].to(dtype)
        if len(own) < rows.stop - rows.start:
            own = F.pad(own, (0, 0, 0, rows.stop - rows.start - len(own)))
        return own if self.group.size == 1 else self.group.all_gather(own.contiguous()).flatten(0, 1)

    def add_up(self, grad: Tensor) -> Tensor:
        """Return this rank's part (T, columns) of the sum over ranks of a tile's gradient."""
        return grad if self.group.size == 1 else self.group.reduce_scatter(grad.to(self.reduce_dtype))


class _Chunked(torch.autograd.Function):
    """Keeps the rows of x; the backward pass gathers each tile again."""

    # Any: the context is torch's own
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, layer: ChunkedLinear, dtype: torch.dtype) -> Tensor:
        ctx.layer = layer
        x = x.to(dtype)
        ctx.save_for_backward(x, weight)
        size, rows = layer.group.size, layer.rows
        out_MSR = torch.zeros(len(x), size, rows, dtype=dtype, device=x.device)
        for tile in layer.tiles(dtype):
            product = x[:, tile[1]] @ layer.gather(weight, tile, dtype).t()
            out_MSR[:, :, tile[0]] += product.unflatten(1, (size, -1))
        return out_MSR.flatten(1)[:, : layer.out_features].contiguous()

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        layer: ChunkedLinear = ctx.layer
        needs_x, needs_weight, *_ = ctx.needs_input_grad
        size, rows = layer.group.size, layer.rows
        grad_MSR = F.pad(grads[0], (0, size * rows - layer.out_features)).unflatten(1, (size, rows))
        # Tiles add up in float32: their number must not decide how much is rounded away.
        grad_x = torch.zeros_like(x, dtype=accumulation_dtype(x)) if needs_x else None
        grad_weight = torch.empty_like(weight) if needs_weight else None
        for tile in layer.tiles(x.dtype):
            grad = grad_MSR[:, :, tile[0]].flatten(1)
            if grad_x is not None:
                grad_x[:, tile[1]] += grad @ layer.gather(weight, tile, x.dtype)
            if grad_weight is not None:
                own = grad_weight[tile]
                own.copy_(layer.add_up(grad.t() @ x[:, tile[1]])[: len(own)])
        return None if grad_x is None else grad_x.to(x.dtype), grad_weight, None, None


def weight_bytes(linear: nn.Linear) -> int:
    """Return the size of a layer's weight."""
    return math.prod(linear.weight.shape) * linear.weight.element_size()
