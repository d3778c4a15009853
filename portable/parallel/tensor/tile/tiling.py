"""Which axes cut what, on a grid (2d, 2.5d) and on a cube (3d), and the products that go with it.

Shapes: n tokens of this rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from portable.collective.protocol import Group
from portable.kernel.reference.precision import matmul_operands
from portable.parallel.mesh import Mesh
from portable.parallel.placement import Cut, chunk
from portable.parallel.tensor import transfer
from portable.parallel.tensor.tile.summa import Grid, summa_head, summa_linear, summa_lookup
from portable.parallel.tensor.vocabulary import own_rows

Product = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """Hidden states have their rows of a batch cut by ``rows``, outer axis first, and their dims by
    ``hidden``; between columns and rows (heads, feed-forward, vocabulary) it is ``inner_rows`` and ``inner``.

    Matrices (out, in) are cut by ``column``, ``row`` and ``vocabulary``, and their gradients are parts over
    ``copies``. The products take hidden states (n, in) and a rank's part of a matrix.
    """

    rows: tuple[str, ...]
    inner_rows: tuple[str, ...]
    hidden: str
    inner: str
    column: tuple[Cut, ...]
    row: tuple[Cut, ...]
    vocabulary: tuple[Cut, ...]
    copies: tuple[str, ...]
    multiply_column: Product
    multiply_row: Product
    multiply_head: Product
    look_up: Product


def grid_tiling(mesh: Mesh, depth: int, side: int, vocab_size: int) -> Tiling:
    """Return the tiling of depth × side × side ranks: each layer is a SUMMA grid for some of the rows, with
    the same weights, whose gradients are added up.

    Source: Xu et al. 2021, arXiv:2104.05343; the depth: Wang et al. 2021, arXiv:2105.14500.
    """
    mesh.fold("tp", ("tp_depth", "tp_row", "tp_col"), (depth, side, side))
    mesh.fold("tp", ("tp_batch", "tp_col"), (depth * side, side))
    grid = Grid(row=mesh.group("tp_col"), column=mesh.group("tp_row"))
    starts, sizes = zip(*(chunk(vocab_size, side, index) for index in range(side)), strict=True)
    matrix = (Cut(0, "tp_col"), Cut(1, "tp_row"))
    return Tiling(
        rows=("tp_batch",),
        inner_rows=("tp_batch",),
        hidden="tp_col",
        inner="tp_col",
        column=matrix,
        row=matrix,
        vocabulary=(Cut(0, "tp_row"), Cut(1, "tp_col")),
        copies=("tp_depth",) if depth > 1 else (),
        multiply_column=lambda x, weight: summa_linear(x, weight, grid),
        multiply_row=lambda x, weight: summa_linear(x, weight, grid),
        multiply_head=lambda x, weight: summa_head(x, weight, grid, sizes),
        look_up=lambda ids, weight: summa_lookup(ids, weight, grid, starts, sizes),
    )


def cube_tiling(mesh: Mesh, side: int, vocab_size: int) -> Tiling:
    """Return the tiling of side³ ranks (i, j, k): no rank holds what another does, of matrices or of hidden
    states.

    Hidden states have rows (i, j) and dims k; what columns make of them rows (i, k) and dims j, so that two
    products lead back. Source: Bian et al. 2021, arXiv:2105.14450, algorithms 1 and 2.
    """
    mesh.fold("tp", ("tp_i", "tp_j", "tp_k"), (side, side, side))
    i, j, k = (mesh.group(f"tp_{axis}") for axis in "ijk")
    start, _ = chunk(vocab_size, side, j.rank)

    def look_up(ids: Tensor, weight: Tensor) -> Tensor:
        of_row = transfer.gather(ids, j, 0)  # the same as a product with one-hot rows, which need not travel
        return transfer.leave_cut(own_rows(of_row, transfer.enter_cut(weight, i, 1), start), j, 0)

    return Tiling(
        rows=("tp_i", "tp_j"),
        inner_rows=("tp_i", "tp_k"),
        hidden="tp_k",
        inner="tp_j",
        column=(Cut(0, "tp_j"), Cut(1, "tp_k"), Cut(1, "tp_i")),
        row=(Cut(0, "tp_k"), Cut(1, "tp_j"), Cut(1, "tp_i")),
        vocabulary=(Cut(0, "tp_j"), Cut(1, "tp_k"), Cut(1, "tp_i")),
        copies=(),
        multiply_column=lambda x, weight: cube_linear(x, weight, j, i, k),
        multiply_row=lambda x, weight: cube_linear(x, weight, k, i, j),
        multiply_head=lambda x, weight: cube_linear(x, weight, j, i, k),
        look_up=look_up,
    )


def cube_linear(x: Tensor, weight: Tensor, gathered: Group, weights: Group, summed: Group) -> Tensor:
    """Return this rank's part of x W^T: rows are gathered over one axis, the matrix over another, and the
    products added up and cut over the third.

    Shapes: x (n, in / l), weight (out / l, in / l²); returns (n, out / l).
    """
    x, weight = matmul_operands(x, weight)
    whole_x = transfer.enter_cut(x, gathered, 0)
    whole_weight = transfer.enter_cut(weight, weights, 1)
    return transfer.leave_cut(whole_x @ whole_weight.T, summed, 0)
