"""How blocks are counted out to stages; the cut itself is tested by what the stages compute."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from portable.collective.local import LocalGroup
from portable.core.errors import CapabilityError, ConfigError
from portable.parallel.config import ParallelConfig
from portable.parallel.layout import Layout
from portable.parallel.mesh import Mesh
from portable.parallel.pipeline.schedule.select import make_schedule
from portable.parallel.pipeline.stage import count_layers, split_into_stages


@pytest.mark.parametrize(
    ("layers", "stages", "asked", "counts"),
    [
        (8, 4, [], [2, 2, 2, 2]),
        (10, 4, [], [3, 3, 2, 2]),
        (4, 4, [], [1, 1, 1, 1]),
        (5, 2, [4, 1], [4, 1]),
        (3, 3, [0, 3, 0], [0, 3, 0]),
    ],
)
def test_layers_are_counted_out(layers: int, stages: int, asked: list[int], counts: list[int]) -> None:
    assert count_layers(layers, stages, asked) == counts


@pytest.mark.parametrize(
    ("layers", "stages", "asked", "told"),
    [
        (3, 4, [], "3 blocks for 4 pipeline stages; use at most 3 stages"),
        (5, 2, [4, 2], r"use e.g. \[3, 2\]"),
        (4, 4, [2, 0, 1, 1], "each with one or more"),
        (4, 2, [5, -1], "does not divide"),
        (4, 2, [2, 1, 1], "over 2 stages"),
    ],
)
def test_counts_that_do_not_fit_are_refused(layers: int, stages: int, asked: list[int], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        count_layers(layers, stages, asked)


class Uncut(nn.Module):
    def __init__(self, blocks: Any) -> None:
        super().__init__()
        self.blocks = blocks


@pytest.mark.parametrize("blocks", [nn.ModuleList(), nn.ModuleDict(), None])
def test_another_kind_of_model_is_refused(blocks: Any) -> None:
    mesh = Mesh(Layout(), LocalGroup(), "cpu")
    with pytest.raises(CapabilityError, match="a Uncut cannot be cut into pipeline stages"):
        split_into_stages(Uncut(blocks), make_schedule(ParallelConfig()), mesh, (), {})
