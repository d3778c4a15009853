"""Dividing a decoder into tiles."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass

from torch import nn

from portable.core.errors import ConfigError
from portable.model.decoder import Decoder
from portable.model.norm import AddRmsNorm, RmsNorm
from portable.parallel.mesh import Mesh
from portable.parallel.placement import Cut, Placement
from portable.parallel.shard_plan import Role, ShardPlan
from portable.parallel.tensor.cut import cut_parameter, replace_module
from portable.parallel.tensor.tile.modules import TiledEmbedding, TiledHead, TiledLinear, TiledNorm
from portable.parallel.tensor.tile.rows import RowEdge
from portable.parallel.tensor.tile.tiling import Tiling

_COLUMNS = (Role.column, Role.kv_column)
_VOCABULARY = (Role.embedding, Role.head)


@dataclass(frozen=True, slots=True)
class _Place:
    """How a parameter is cut, and over what its gradients are parts."""

    cuts: tuple[Cut, ...]
    partial: tuple[str, ...]


def divide_in_tiles(
    model: nn.Module, plan: ShardPlan, tiling: Tiling, mesh: Mesh, placements: MutableMapping[str, Placement]
) -> None:
    """Cut every parameter by its role, and put tiled layers in the places of whole ones.

    Raises: ConfigError for a model that is no decoder of ours, or has layers that are not made for tiles.
    """
    if not isinstance(model, Decoder):
        raise ConfigError(
            f"parallel.tensor_parallel_mode=2d, 2.5d and 3d divide models of portable.model, and this is a "
            f"{type(model).__name__}; use tensor_parallel_mode=1d"
        )
    places = {
        name: _place(name, plan.role_of_parameter(name), parameter.ndim, tiling)
        for name, parameter in model.named_parameters()
    }
    for name, place in places.items():
        cut_parameter(model, name, place.cuts, mesh, placements)
        for axis in place.partial:
            placements[name] = placements[name].summed_over(axis)
    hidden_size = model.config.hidden_size
    for name, module in list(model.named_modules()):
        new = _tiled(module, plan.role(name), tiling, mesh, hidden_size)
        if new is not None:
            replace_module(model, name, new)
    RowEdge(model, plan, tiling, mesh)
    head = f"{plan.embed if model.head is None else plan.head}.weight"
    if head in places:
        TiledHead(model, tiling, placements[head], mesh, model.config.vocab_size)


def _place(name: str, role: Role, ndim: int, tiling: Tiling) -> _Place:
    if role is Role.norm:
        return _Place((Cut(0, tiling.hidden),), tiling.rows)
    if role is Role.head_norm:
        return _Place((), ("tp",))
    if role in _VOCABULARY:
        return _Place(tiling.vocabulary, tiling.copies)
    if role in _COLUMNS:
        bias = _Place((Cut(0, tiling.inner),), tiling.inner_rows)
        return bias if ndim == 1 else _Place(tiling.column, tiling.copies)
    if role is Role.row:
        bias = _Place((Cut(0, tiling.hidden),), tiling.rows)
        return bias if ndim == 1 else _Place(tiling.row, tiling.copies)
    raise ConfigError(
        f"parallel.tensor_parallel_mode=2d, 2.5d and 3d have no layer for '{name}' ({role.value}): latent "
        "attention, experts and multi-token prediction need tensor_parallel_mode=1d"
    )


def _tiled(
    module: nn.Module, role: Role | None, tiling: Tiling, mesh: Mesh, hidden_size: int
) -> nn.Module | None:
    """Return what takes the place of ``module``; None if it stays, as the head does, whose weight is all
    that is used.
    """
    if isinstance(module, nn.Linear) and role in _COLUMNS:
        return TiledLinear(module, tiling.multiply_column)
    if isinstance(module, nn.Linear) and role is Role.row:
        return TiledLinear(module, tiling.multiply_row)
    if isinstance(module, nn.Embedding):
        return TiledEmbedding(module, tiling.look_up)
    if isinstance(module, (RmsNorm, AddRmsNorm)) and role is Role.norm:
        return TiledNorm(module, hidden_size, mesh.group(tiling.hidden))
    return None
