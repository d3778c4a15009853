"""Which part of what a module makes a rank has, in every layout of a decoder.

Shapes: B rows, T tokens of a micro-batch; b, t those of this rank; ... features or heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from portable.certificate.shrink import Trial
from portable.certificate.watch import ROOT
from portable.core.errors import ShapeError
from portable.model.decoder import Decoder
from portable.parallel.context.order import TokenOrder
from portable.parallel.mesh import Mesh
from portable.parallel.placement import chunk
from portable.parallel.runtime import Runtime
from portable.parallel.shard_plan import DECODER, Role
from portable.parallel.tensor.check import cube_side, grid_side
from portable.parallel.tensor.line import outermost_regions
from portable.parallel.tensor.tile.tiling import Tiling, cube_tiling, grid_tiling

_NOWHERE = -1  # the number of a row or token that fills up


@dataclass(frozen=True, slots=True)
class Part:
    """``rows`` and ``tokens`` are axes that divide these dims beside ``dp`` and ``cp``, ``features`` the one
    that divides a further dim. ``partial``: values are parts of a sum over ``tp``; ``partial_gradient``: so
    are gradients.
    """

    rows: tuple[str, ...] = ()
    tokens: bool = False
    features: str = ""
    partial: bool = False
    partial_gradient: bool = False


class Places:
    """Knows the part of every module's results that this rank has. All ranks make one together."""

    def __init__(self, model: Decoder, trial: Trial, runtime: Runtime) -> None:
        self.trial = trial
        self.mesh = runtime.mesh
        config = runtime.parallel
        self.sequence = config.enable_sequence_parallel and self.mesh.size("tp") > 1
        self.order = TokenOrder(self.mesh.size("cp"), config.context_parallel_load_balancer == "headtail")
        self.tiling = _tiling(trial, self.mesh)
        self.sequence &= self.tiling is None
        self.regions = outermost_regions(model, DECODER, with_experts=self.mesh.layout.ep == 1)

    def part_of(self, module: str) -> Part:
        """Return which part of a module's results this rank has."""
        if module == ROOT or self.mesh.size("tp") == 1:
            return Part()
        inside = any(module.startswith(f"{region}.") for region in self.regions)
        role = DECODER.role(module)
        if self.tiling is not None:
            if inside and role is not Role.row:
                return Part(rows=self.tiling.inner_rows, features=self.tiling.inner)
            return Part(rows=self.tiling.rows, features=self.tiling.hidden)
        if not inside:
            return Part(tokens=self.sequence)
        if role in (Role.row, Role.region) or module.endswith(".experts"):
            return Part(partial=True)
        return Part(features="tp", partial_gradient=role in (Role.router, Role.replicated))

    def expected(self, module: str, whole: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Return this rank's part of ``whole``, and what of ``own`` it compares with: what fills up is left
        out of both.

        Raises: ShapeError if ``own`` is no such part.
        """
        part = self.part_of(module)
        if whole.ndim == 2 and module != ROOT:  # (tokens, ...), flattened
            whole = whole.unflatten(0, (self.trial.rows, self.trial.seq_len))
            own = own.unflatten(0, (self.trial.rows, -1))
        for dim, numbers in enumerate((self._rows(part), self._tokens(part, at_end=module == ROOT))):
            if len(numbers) != own.shape[dim]:
                raise ShapeError(f"{module}: {own.shape[dim]} along dim {dim} instead of {len(numbers)}")
            real = numbers != _NOWHERE
            whole = whole.index_select(dim, numbers[real].to(whole.device))
            own = own.index_select(dim, real.nonzero().flatten().to(own.device))
        for dim in range(2, whole.ndim):
            if whole.shape[dim] != own.shape[dim] and part.features:
                axis = self._feature_axis(part, whole.shape[dim], own.shape[dim])
                whole = whole.narrow(
                    dim, *chunk(whole.shape[dim], self.mesh.size(axis), self.mesh.index(axis))
                )
        if whole.shape != own.shape:
            raise ShapeError(f"{module}: {tuple(own.shape)} instead of {tuple(whole.shape)}")
        return whole, own

    def sum_axes(self, module: str, whole: Tensor, own: Tensor, *, gradient: bool) -> tuple[str, ...]:
        """Return the axes over which the ranks' values (or gradients) are parts of a sum."""
        part = self.part_of(module)
        if part.partial_gradient if gradient else part.partial:
            return ("tp",)
        if gradient and part.features == "tp":
            for dim in range(2, own.ndim):
                axis = self._feature_axis(part, whole.shape[dim], own.shape[dim])
                if axis not in ("tp", "") and whole.shape[dim] != own.shape[dim]:
                    return (f"{axis}_copy",)  # several ranks have a key-value head, each for its queries
        return ()

    def _feature_axis(self, part: Part, whole: int, own: int) -> str:
        """Return the axis that divides; key-value heads fewer than ranks have one of their own."""
        count, heads = whole // max(own, 1), self.trial.model.num_kv_heads
        return f"tp_kv{heads}" if self._has_kv_axis and count == heads else part.features

    @property
    def _has_kv_axis(self) -> bool:
        return self.tiling is None and self.trial.model.num_kv_heads % self.mesh.size("tp") != 0

    def _rows(self, part: Part) -> Tensor:
        """Return the numbers of this rank's rows."""
        total = self.trial.rows
        axes = self.tiling.rows if self.tiling is not None else ()
        filled = _fill_up(torch.arange(total), math.prod(self.mesh.size(axis) for axis in axes))
        for axis in part.rows:
            filled = filled.chunk(self.mesh.size(axis))[self.mesh.index(axis)]
        return filled if part.rows else filled[:total]

    def _tokens(self, part: Part, *, at_end: bool) -> Tensor:
        """Return the numbers of this rank's tokens."""
        numbers = torch.arange(self.trial.seq_len)
        cp, tp = self.mesh.size("cp"), self.mesh.size("tp") if self.sequence else 1
        if cp > 1:
            numbers = _fill_up(numbers, math.lcm(self.order.num_chunks, cp * tp))
            numbers = self.order.part(numbers.unsqueeze(0), self.mesh.index("cp"))[0]
        if at_end or not self.sequence:
            return numbers
        numbers = _fill_up(numbers, tp)
        return numbers.chunk(tp)[self.mesh.index("tp")] if part.tokens else numbers


def _fill_up(numbers: Tensor, multiple: int) -> Tensor:
    return F.pad(numbers, (0, -len(numbers) % multiple), value=_NOWHERE)


def _tiling(trial: Trial, mesh: Mesh) -> Tiling | None:
    config, vocab_size = trial.parallel, trial.model.vocab_size
    if config.tensor_parallel_degree == 1 or config.tensor_parallel_mode == "1d":
        return None
    if config.tensor_parallel_mode == "3d":
        return cube_tiling(mesh, cube_side(config.tensor_parallel_degree), vocab_size)
    return grid_tiling(mesh, config.tensor_parallel_depth, grid_side(config), vocab_size)
