"""Products of matrices whose blocks lie on a grid of q × q ranks: block (i, j) of each on rank (i, j).

Only blocks travel, one per step of q, so that no rank ever holds a whole row or column of blocks.
Source: van de Geijn and Watts 1997, SUMMA; the three forms and their use in a layer: Xu et al. 2021,
arXiv:2104.05343, algorithms 1 to 3.

Shapes: n, m rows and columns of a block; the dim that the q steps run over may have uneven blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from portable.collective.protocol import Group
from portable.kernel.reference.precision import accumulation_dtype, matmul_operands
from portable.parallel.tensor.vocabulary import own_rows


@dataclass(frozen=True, slots=True)
class Grid:
    """A rank's place: ``row`` joins the ranks of its grid row (its own rank there is j), ``column`` those of
    its column (i).
    """

    row: Group
    column: Group

    def ab(self, a: Tensor, b: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return block C_ij of C = A B, the sum over l of A_il B_lj; ``sizes`` are A's columns of each l."""
        total = a.new_zeros(a.shape[0], b.shape[1], dtype=accumulation_dtype(a))
        for step, size in enumerate(sizes):
            left = _broadcast(a, (a.shape[0], size), self.row, step)
            right = _broadcast(b, (size, b.shape[1]), self.column, step)
            total += left @ right
        return total.to(a.dtype)

    def abt(self, a: Tensor, b: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return block C_ij of C = A B^T, C_il = the sum over j of A_ij B_lj^T; ``sizes`` are B's rows."""
        own = a.new_empty(0)
        for step, size in enumerate(sizes):
            right = _broadcast(b, (size, b.shape[1]), self.column, step)
            own = _reduce(a @ right.T, self.row, step, own)
        return own

    def atb(self, a: Tensor, b: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return block C_ij of C = A^T B, C_lj = the sum over i of A_il^T B_ij; ``sizes`` are A's columns."""
        own = a.new_empty(0)
        for step, size in enumerate(sizes):
            left = _broadcast(a, (a.shape[0], size), self.row, step)
            own = _reduce(left.T @ b, self.column, step, own)
        return own


def summa_linear(x: Tensor, weight: Tensor, grid: Grid) -> Tensor:
    """Return block (i, j) of x W^T. ``weight`` is block (out j, in i) of W (out, in).

    Shapes: x (n, in / q), weight (out / q, in / q); returns (n, out / q).
    """
    sizes = [weight.shape[1]] * grid.row.size
    product: Tensor = _Product.apply(*matmul_operands(x, weight), grid, sizes, False)
    return product


def summa_head(x: Tensor, weight: Tensor, grid: Grid, sizes: Sequence[int]) -> Tensor:
    """Return block (i, j) of x E^T, for ``weight`` block (i, j) of E (vocabulary, hidden), whose rows are cut
    into ``sizes``.

    Shapes: x (n, hidden / q), weight (sizes[i], hidden / q); returns (n, sizes[j]).
    """
    product: Tensor = _Product.apply(*matmul_operands(x, weight), grid, sizes, True)
    return product


def summa_lookup(
    ids: Tensor, weight: Tensor, grid: Grid, starts: Sequence[int], sizes: Sequence[int]
) -> Tensor:
    """Return E[ids], i.e. A B with A one row a token: the rows of E travel as B does, A is known.

    Shapes: ids any; weight (sizes[i], hidden / q); returns (*ids.shape, hidden / q).
    """
    found: Tensor = _Lookup.apply(ids, weight, grid, starts, sizes)
    return found


class _Product(torch.autograd.Function):
    """A B or A B^T: the gradients are the other two forms, over the same blocks."""

    # Any: the context is torch's own
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, grid: Grid, sizes: Sequence[int], is_head: bool
    ) -> Tensor:
        ctx.grid, ctx.sizes, ctx.is_head = grid, sizes, is_head
        ctx.save_for_backward(x, weight)
        return grid.abt(x, weight, sizes) if is_head else grid.ab(x, weight.T, sizes)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad = grad_outputs[0].contiguous()
        x, weight = ctx.saved_tensors
        grid, sizes = ctx.grid, ctx.sizes
        if ctx.is_head:
            grads = grid.ab(grad, weight, sizes), grid.atb(grad, x, sizes)
        else:
            grads = grid.abt(grad, weight.T, sizes), grid.atb(x, grad, sizes).T
        return *grads, None, None, None


class _Lookup(torch.autograd.Function):
    # Any: the context is torch's own
    @staticmethod
    def forward(
        ctx: Any, ids: Tensor, weight: Tensor, grid: Grid, starts: Sequence[int], sizes: Sequence[int]
    ) -> Tensor:
        ctx.grid, ctx.starts, ctx.sizes = grid, starts, sizes
        ctx.save_for_backward(ids)
        total = weight.new_zeros(*ids.shape, weight.shape[1])
        for step, (start, size) in enumerate(zip(starts, sizes, strict=True)):
            total += own_rows(ids, _broadcast(weight, (size, weight.shape[1]), grid.column, step), start)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor, None, None, None]:
        ids = ctx.saved_tensors[0].flatten()
        grad = grad_outputs[0].flatten(0, -2)
        own = grad.new_empty(0)
        for step, (start, size) in enumerate(zip(ctx.starts, ctx.sizes, strict=True)):
            here = ((ids >= start) & (ids < start + size)).nonzero().squeeze(-1)
            part = grad.new_zeros(size, grad.shape[1]).index_add_(0, ids[here] - start, grad[here])
            own = _reduce(part, ctx.grid.column, step, own)
        return None, own, None, None, None


def _broadcast(block: Tensor, shape: tuple[int, int], group: Group, source: int) -> Tensor:
    here = block.contiguous() if group.rank == source else block.new_empty(shape)
    return group.broadcast(here, source)


def _reduce(part: Tensor, group: Group, target: int, otherwise: Tensor) -> Tensor:
    """Return the sum over ranks on ``target``, elsewhere ``otherwise``."""
    parts = group.gather(part.contiguous(), target)
    return otherwise if parts is None else parts.sum(0)
