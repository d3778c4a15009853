from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from portable.core.errors import ConfigError
from portable.device.capability import Capability
from portable.parallel.config import Float8Config, TileConfig
from portable.parallel.float8.linear import apply_float8
from portable.parallel.memory.chunked_linear import ChunkedLinear
from portable.parallel.memory.tile import apply_tiles
from portable.testing.process import run_processes
from portable.testing.runtime import make_runtime
from tests.portable.parallel.memory.case_chunked_linear import TILE_MB

ACTIVATIONS_MB = 1.5  # of 16 tokens, four times 4096 wide in float32
CASE = "tests.portable.parallel.memory.case_chunked_linear"


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(16, 32), nn.Linear(16, 16))])


@pytest.mark.parametrize("tile_bytes", [10**6, 84, 12, 1])
def test_the_layer_computes_what_the_whole_one_does(tile_bytes: int):
    torch.manual_seed(0)
    plain = nn.Linear(7, 11)
    tiled = ChunkedLinear(plain, tile_bytes)
    x = torch.randn(2, 5, 7, requires_grad=True)
    grad = torch.randn(2, 5, 11)
    expected = [plain(x), *torch.autograd.grad(plain(x), (x, plain.weight, plain.bias), grad)]
    found = [tiled(x), *torch.autograd.grad(tiled(x), (x, tiled.weight, tiled.bias), grad)]
    for own, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("tile_bytes", "count"), [(10**6, 1), (84, 4), (12, 33), (1, 77)])
def test_no_tile_is_larger_than_asked(tile_bytes: int, count: int):
    tiles = list(ChunkedLinear(nn.Linear(7, 11), tile_bytes).tiles(torch.float32))
    sizes = [(rows.stop - rows.start) * len(range(7)[columns]) for rows, columns in tiles]
    assert len(sizes) == count
    assert sum(sizes) == 77
    assert max(sizes) <= max(1, tile_bytes // 4)


def test_large_layers_of_blocks_are_tiled_under_their_names():
    model = Blocks()
    names = list(dict(model.named_parameters()))
    assert apply_tiles(model, TileConfig(linear_mb=1.5 / 2**10)) == ["blocks.0.0"]  # 2 KiB, and 1 KiB
    assert list(dict(model.named_parameters())) == names
    assert isinstance(model.blocks[0][0], ChunkedLinear)


def test_a_layer_of_eight_bits_is_refused():
    model = Blocks()
    capability: Capability = make_runtime().device.capability()
    apply_float8(model, Float8Config(recipe="rowwise", emulate=True), capability)
    with pytest.raises(ConfigError, match=r"blocks\.0\.0, which multiplies in 8 bits"):
        apply_tiles(model, TileConfig(linear_mb=1e-4))


def test_rows_that_do_not_divide_evenly_lie_on_two_ranks(tmp_path: Path):
    for report in run_processes(f"{CASE}:alone_and_divided", 2, tmp_path):
        for differences in report.values():
            assert max(differences) <= 1e-6


def test_a_step_never_holds_more_than_tiles(tmp_path: Path):
    for report in run_processes(f"{CASE}:peaks", 2, tmp_path):
        for strategy in ("fsdp", "ddp"):
            whole, tiled = report[f"{strategy}, whole"], report[f"{strategy}, tiled"]
            assert tiled["loss"] == pytest.approx(whole["loss"], abs=2e-6 if strategy == "fsdp" else 1e-2)
        # Three weights of 4 MiB: gathered, and half of their gradients; now tiles in place of the former.
        assert report["fsdp, whole"]["rise"] >= 18.0
        assert report["fsdp, tiled"]["rise"] <= 6.0 + 6 * TILE_MB + ACTIVATIONS_MB
        # Weights that compute in bf16 have copies of 2 MiB, kept for the backward pass; tiles have none. What
        # a step of ddp holds at most is another matter: gradients and the buffer in which they travel.
        assert report["ddp, tiled"]["kept"] <= report["ddp, whole"]["kept"] - 6.0 + TILE_MB
