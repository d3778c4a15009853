"""What a block keeps, measured, and the choice of what to keep."""

from __future__ import annotations

import gc
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import _VersionWrapper

from portable.model.decoder import Decoder
from portable.parallel.config import RecomputeConfig, TileConfig
from portable.parallel.memory.budget import Result, choose
from portable.parallel.memory.recompute import apply_recomputation
from portable.parallel.memory.tile import apply_tiles
from portable.testing.runtime import make_runtime
from tests.portable.parallel.case_spread import MODELS

ROWS, LENGTH, WIDTH, INNER = 2, 16, 32, 48
HIDDEN_BYTES = 4 * ROWS * LENGTH * WIDTH


class Kept:
    """Counts what autograd keeps alive: storages of tensors that it saves, each once, without parameters."""

    def __init__(self, module: nn.Module) -> None:
        self._parameters = {parameter.untyped_storage()._cdata for parameter in module.parameters()}
        self._storages: dict[int, int] = {}
        self._hooks = saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def __enter__(self) -> Kept:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    @property
    def num_bytes(self) -> int:
        """With what recomputation itself holds: results that it was told to keep."""
        held = [item.val for item in gc.get_objects() if type(item) is _VersionWrapper]
        results = {
            x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in held if isinstance(x, Tensor)
        }
        return sum((self._storages | results).values())

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._parameters:
            self._storages[storage._cdata] = storage.nbytes()
        return tensor


class Chain(nn.Module):
    """Blocks of a decoder, alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = Decoder(MODELS["dense"], make_runtime().kernels).blocks

    def forward(self, x: Tensor) -> Tensor:
        angles = torch.zeros(ROWS, LENGTH, 8)
        for block in self.blocks.values():
            x = block(x, (angles.cos(), angles.sin()))
        return x


def _run(config: RecomputeConfig, tiles: int = 1) -> tuple[int, list[Tensor]]:
    """Return the bytes kept at the end of the second forward pass, and all gradients of both."""
    chain = Chain()
    apply_tiles(chain, TileConfig(mlp_chunks=tiles))
    apply_recomputation(chain, config)
    stream = torch.Generator().manual_seed(1)
    for _ in range(2):
        x = torch.randn(ROWS, LENGTH, WIDTH, generator=stream, requires_grad=True)
        with Kept(chain) as kept:
            out = chain(x)
        num_bytes = kept.num_bytes
        out.square().sum().backward()
    assert x.grad is not None
    return num_bytes, [x.grad, *(p.grad for p in chain.parameters() if p.grad is not None)]


def test_all_modes_give_the_same_bits():
    _, expected = _run(RecomputeConfig())
    for config in (
        RecomputeConfig(mode="full"),
        RecomputeConfig(mode="full", every=2),
        RecomputeConfig(mode="selective"),
        *(RecomputeConfig(mode="budget", budget=budget) for budget in (0.0, 0.3, 0.7, 1.0)),
    ):
        _, found = _run(config)
        assert all(map(torch.equal, found, expected)), config


def test_a_recomputed_block_keeps_its_input_only():
    whole, _ = _run(RecomputeConfig())
    full, _ = _run(RecomputeConfig(mode="full"))
    half, _ = _run(RecomputeConfig(mode="full", every=2))
    assert full == 4 * HIDDEN_BYTES
    assert half == 2 * HIDDEN_BYTES + whole // 2


def test_selective_recomputation_keeps_products_and_attention():
    heads, kv_heads, width = 4, 2, 8
    kept = [
        heads * width,
        kv_heads * width,
        kv_heads * width,
        WIDTH,
        INNER,
        INNER,
        WIDTH,
    ]  # q k v o gate up down
    attention = [heads * width, heads]  # output and lse
    expected = 4 * (HIDDEN_BYTES + 4 * ROWS * LENGTH * sum(kept + attention))
    assert _run(RecomputeConfig(mode="selective"))[0] == expected


@pytest.mark.parametrize("budget", [0.0, 0.2, 0.4, 0.6, 0.8])
def test_a_budget_is_kept_and_used(budget: float):
    whole, _ = _run(RecomputeConfig())
    found, _ = _run(RecomputeConfig(mode="budget", budget=budget))
    limit = max(budget * whole, 4 * HIDDEN_BYTES)
    assert 0.7 * limit <= found <= limit


def test_a_budget_of_all_recomputes_nothing():
    assert _run(RecomputeConfig(mode="budget", budget=1.0))[0] == _run(RecomputeConfig())[0]


def test_tiles_keep_no_inner_rows():
    whole, _ = _run(RecomputeConfig())
    tiled, _ = _run(RecomputeConfig(), tiles=4)
    assert whole - tiled == 4 * 4 * ROWS * LENGTH * 3 * INNER  # gate, up and their product, in four blocks


def test_the_best_results_are_chosen():
    stream = torch.Generator().manual_seed(0)
    for _ in range(20):
        sizes = torch.randint(1, 40, (8,), generator=stream).tolist()
        works = torch.rand(8, generator=stream).tolist()
        results = [
            Result((str(i), 0), size, value) for i, (size, value) in enumerate(zip(sizes, works, strict=True))
        ]
        room = 80
        legal = (
            subset
            for count in range(9)
            for subset in itertools.combinations(results, count)
            if sum(result.num_bytes for result in subset) <= room
        )
        best = max(sum(result.work for result in subset) for subset in legal)
        chosen = choose(results, room)
        assert sum(result.num_bytes for result in chosen) <= room
        assert sum(result.work for result in chosen) == pytest.approx(best)
