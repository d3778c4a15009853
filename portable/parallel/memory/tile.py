"""The pass: large linear layers use a tile of their weight at a time, and feed-forward layers take some rows
at a time, forward and backward, so that what lies between their matrices is never there for all rows. The
latter costs one more forward pass through them.

Shapes: M rows (tokens of all sequences), D hidden.
Source: Bekman et al. 2025, arXiv:2506.13996, section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from portable.core.errors import ConfigError
from portable.model.mlp import Mlp
from portable.parallel.blocks import named_blocks
from portable.parallel.config import TileConfig
from portable.parallel.memory.chunked_linear import ChunkedLinear, weight_bytes
from portable.parallel.pipeline.deferred import WeightGradients
from portable.parallel.tensor.cut import replace_module

_MIB = 1 << 20
Forward = Callable[[Tensor], Tensor]


def apply_tiles(part: nn.Module, config: TileConfig) -> list[str]:
    """Let the feed-forward layers of ``part`` take their rows in ``mlp_chunks``, and linear layers of blocks
    their weights in tiles of ``linear_mb``; return their names.

    The layers of a mixture are left alone, but for those that every token passes.
    Raises: ConfigError if a layer that is to be tiled multiplies in 8 bits.
    """
    return [*_tile_linear(part, config), *_tile_mlp(part, config)]


def _tile_linear(part: nn.Module, config: TileConfig) -> list[str]:
    limit = int(config.linear_mb * _MIB)
    if not limit:
        return []
    names: list[str] = []
    for block_name, block in named_blocks(part):
        for name, module in list(block.named_modules(prefix=block_name)):
            if type(module) is not nn.Linear or weight_bytes(module) <= limit:
                continue
            if "forward" in vars(module):
                raise ConfigError(
                    f"parallel.tile.linear_mb={config.linear_mb} would tile {name}, which multiplies in 8 "
                    "bits; use precision.float8.recipe=none, name it in precision.float8.exclude, or use "
                    "linear_mb=0"
                )
            replace_module(part, name, ChunkedLinear(module, limit))
            names.append(name)
    return names


def _tile_mlp(part: nn.Module, config: TileConfig) -> list[str]:
    if config.mlp_chunks == 1:
        return []
    layers = [(name, module) for name, module in part.named_modules() if isinstance(module, Mlp)]
    for _, layer in layers:
        vars(layer)["forward"] = partial(_run, layer, layer.forward, config.mlp_chunks)
    return [name for name, _ in layers]


def _run(layer: nn.Module, forward: Forward, chunks: int, x: Tensor) -> Tensor:
    rows_MD = x.flatten(0, -2)
    if not torch.is_grad_enabled():
        out_MD = torch.cat([forward(tile) for tile in rows_MD.tensor_split(chunks)])
    else:
        out_MD = _Tiled.apply(rows_MD, forward, chunks, *layer.parameters())
    return out_MD.view(*x.shape[:-1], -1)


class _Tiled(torch.autograd.Function):
    """Keeps the rows; each tile's backward pass begins with its forward pass."""

    # Any: the context is torch's own
    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: Forward, chunks: int, *parameters: Tensor) -> Tensor:
        ctx.layer, ctx.chunks, ctx.autocast = forward, chunks, _autocast_of(x)
        ctx.save_for_backward(x, *parameters)
        # As many tiles on every rank, however many rows it has: collectives inside must match.
        return torch.cat([forward(tile) for tile in x.tensor_split(chunks)])

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, *parameters = ctx.saved_tensors
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        sums: list[Tensor] = []
        grad_tiles: list[Tensor] = []
        for tile, grad in zip(x.tensor_split(ctx.chunks), grads[0].tensor_split(ctx.chunks), strict=True):
            leaf = tile.detach().requires_grad_()
            with torch.enable_grad(), ctx.autocast(), _at_once():
                out = ctx.layer(leaf)
                grad_tile, *found = torch.autograd.grad(out, (leaf, *trained), grad)
            grad_tiles.append(grad_tile)
            sums = [total.add_(part) for total, part in zip(sums, found, strict=True)] if sums else found
        by_parameter = dict(zip(map(id, trained), sums, strict=True))
        return (
            torch.cat(grad_tiles),
            None,
            None,
            *(by_parameter.get(id(parameter)) for parameter in parameters),
        )


def _autocast_of(x: Tensor) -> Callable[[], Any]:  # Any: torch's context
    """Return what opens the autocast block that is open now: backward passes run outside of it."""
    kind = x.device.type
    enabled = torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind)
    return lambda: torch.autocast(kind, dtype=dtype, enabled=enabled, cache_enabled=False)


@contextmanager
def _at_once() -> Generator[None]:
    """Let weight gradients come now, not later: they belong to one tile."""
    current = WeightGradients.current()
    if current is None:
        yield
        return
    put_off, current.put_off = current.put_off, None
    try:
        yield
    finally:
        current.put_off = put_off
