"""Gradients of parameters that lie over a mesh: sums over axes, and the norm of all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from portable.parallel.mesh import Mesh
from portable.parallel.placement import ParameterShard

TIED_AXIS = "pp_ends"  # the first and the last stage, which both hold a tied embedding


def local(tensor: Tensor) -> Tensor:
    """Return this rank's part of a sharded tensor, in the same memory; of any other, itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def local_gradient(shard: ParameterShard) -> Tensor | None:
    """Return the gradient of this rank's part."""
    gradient = shard.parameter.grad
    return None if gradient is None else local(gradient)


def sum_partial_gradients(shards: Sequence[ParameterShard], mesh: Mesh) -> None:
    """Add up gradients that ranks hold parts of, in one buffer for each axis; all ranks of the axes call.

    A parameter that this rank did not use gets a gradient if others used it.
    """
    for axis in dict.fromkeys(axis for shard in shards for axis in shard.placement.partial):
        group = mesh.group(axis)
        if group.size == 1:
            continue
        concerned = [shard for shard in shards if axis in shard.placement.partial]
        for shard in concerned:
            if shard.parameter.grad is None:
                shard.parameter.grad = torch.zeros_like(shard.parameter)
        gradients = [found for shard in concerned if (found := local_gradient(shard)) is not None]
        for gradient, total in zip(gradients, group.all_reduce_many(gradients), strict=True):
            gradient.copy_(total)


def clip_gradients(shards: Sequence[ParameterShard], mesh: Mesh, max_norm: float) -> Tensor:
    """Scale gradients to a global 2-norm of at most ``max_norm`` (0: leave them); return the norm before, on
    every rank. All ranks of the mesh call.
    """
    norm = gradient_norm(shards, mesh)
    gradients = [found for shard in shards if (found := local_gradient(shard)) is not None]
    if max_norm > 0 and gradients:
        # As torch's own, which takes no list of both sharded and plain gradients.
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, factor)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]  # torch has no other name
    return norm


def gradient_norm(shards: Sequence[ParameterShard], mesh: Mesh) -> Tensor:
    """Return the 2-norm over all parts that all ranks hold, each counted once."""
    by_axes: dict[tuple[str, ...], list[ParameterShard]] = {}
    for shard in shards:
        by_axes.setdefault(_norm_axes(shard, mesh), []).append(shard)
    if mesh.layout.pp == 1 and set(by_axes) <= {()}:
        return _local_norm(by_axes.get((), []))
    squares = []
    for axes in sorted(by_axes):
        square = _local_norm(by_axes[axes]).float() ** 2
        if TIED_AXIS in axes:
            square = square / mesh.size(TIED_AXIS)  # each stage counts its share of what several hold
        for axis in axes:
            if axis != TIED_AXIS:
                square = mesh.group(axis).all_reduce(square)
        squares.append(square)
    total = torch.stack(squares).sum()
    return mesh.group("pp").all_reduce(total).sqrt() if mesh.layout.pp > 1 else total.sqrt()


def _norm_axes(shard: ParameterShard, mesh: Mesh) -> tuple[str, ...]:
    axes = {cut.axis for cut in shard.placement.cuts if mesh.size(cut.axis) > 1}
    if TIED_AXIS in shard.placement.partial and mesh.size(TIED_AXIS) > 1:
        axes.add(TIED_AXIS)
    return tuple(sorted(axes))


def _local_norm(shards: Sequence[ParameterShard]) -> Tensor:
    gradients = [found for shard in shards if (found := local_gradient(shard)) is not None]
    if gradients:
        return get_total_norm(gradients)
    return torch.zeros((), device=local(shards[0].parameter).device if shards else None)
