"""Tensor parallelism in two and three dimensions against the whole model; run in real processes."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from portable.collective.protocol import Group
from portable.parallel.config import ParallelConfig
from portable.parallel.runtime import Runtime
from portable.parallel.tensor.tile import modules
from portable.parallel.tensor.tile.summa import Grid, summa_linear
from portable.parallel.tensor.tile.tiling import cube_linear
from portable.testing.runtime import make_runtime
from tests.portable.parallel.tensor.parity import compare, make_batch, model_config, small_chunks

# name: changes of the model, (rows, length, packed), adjustment
_MODELS: dict[str, tuple[dict[str, Any], tuple[int, int, bool], str]] = {
    "tied": ({}, (4, 5, False), ""),
    "rows that do not divide, segments": ({"tie_embeddings": False}, (3, 7, True), ""),
    "biases": ({"qk_norm": False, "qkv_bias": True}, (1, 5, True), "row_bias"),
}


def run(mode: str, depth: str, size: str) -> dict[str, dict[str, float]]:
    """Return the distances of every case."""
    parallel = ParallelConfig(
        tensor_parallel_degree=int(size), tensor_parallel_mode=mode, tensor_parallel_depth=int(depth)
    )
    runtime = make_runtime(parallel=parallel)
    report: dict[str, dict[str, float]] = {}
    for name, (changes, (rows, length, packed), adjust) in _MODELS.items():
        config = model_config(intermediate_size=20, **changes)
        with small_chunks(modules, 100):
            batch = make_batch(config, rows, length, packed=packed)
            report[name] = compare(runtime, config, parallel, batch, adjust=adjust)
    report["volume"] = _volume(runtime, mode)
    runtime.group.close()
    return report


class _Counting:
    """A group that counts the values that reach this rank, or for a reduction leave it."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self.moved = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._group, name)

    def broadcast(self, x: Tensor, source: int = 0) -> Tensor:
        self.moved += x.numel()
        return self._group.broadcast(x, source)

    def gather(self, x: Tensor, target: int = 0) -> Tensor | None:
        self.moved += x.numel()
        return self._group.gather(x, target)

    def all_gather(self, x: Tensor) -> Tensor:
        self.moved += x.numel() * (self._group.size - 1)
        return self._group.all_gather(x)

    def reduce_scatter(self, x: Tensor) -> Tensor:
        self.moved += x.numel() * (self._group.size - 1) // self._group.size
        return self._group.reduce_scatter(x)


def _volume(runtime: Runtime, mode: str) -> dict[str, float]:
    """Return the values that travel for x (24, 8) times W (16, 8), forward and with the backward pass."""
    rows, in_size, out_size = 24, 8, 16
    axes = ("tp_i", "tp_j", "tp_k") if mode == "3d" else ("tp_col", "tp_row")
    groups = [_Counting(runtime.mesh.group(axis)) for axis in axes]
    if mode == "3d":
        i, j, k = groups
        x, weight = torch.ones(rows // 4, in_size // 2), torch.ones(out_size // 2, in_size // 4)
        multiply = partial(cube_linear, gathered=j, weights=i, summed=k)
    else:
        depth = runtime.mesh.size("tp_depth")
        x, weight = torch.ones(rows // 2 // depth, in_size // 2), torch.ones(out_size // 2, in_size // 2)
        multiply = partial(summa_linear, grid=Grid(*groups))
    y = multiply(x.requires_grad_(), weight.requires_grad_())
    forward = sum(group.moved for group in groups)
    y.sum().backward()
    return {"forward": forward, "both": sum(group.moved for group in groups)}
