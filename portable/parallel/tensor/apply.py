"""The pass: the matrices of every layer and the vocabulary are divided over axis ``tp``."""

from __future__ import annotations

from collections.abc import MutableMapping

from torch import nn

from portable.parallel.config import ParallelConfig
from portable.parallel.mesh import Mesh
from portable.parallel.placement import Placement
from portable.parallel.shard_plan import ShardPlan
from portable.parallel.tensor.check import TensorFacts, check_tensor, cube_side, grid_side
from portable.parallel.tensor.line import divide_in_line
from portable.parallel.tensor.tile.divide import divide_in_tiles
from portable.parallel.tensor.tile.tiling import cube_tiling, grid_tiling
from portable.parallel.tensor.transfer import stay_outside_graphs


def apply_tensor_parallel(
    model: nn.Module,
    plan: ShardPlan,
    mesh: Mesh,
    config: ParallelConfig,
    facts: TensorFacts,
    placements: MutableMapping[str, Placement],
) -> None:
    """Leave this rank its part of a model, or of a pipeline stage; it is called as before, by all ranks of
    ``tp`` with the same batch, and returns the same on all.

    All ranks of the world call. Raises: ConfigError, before anything is cut, if the sizes do not divide or
    the plan lacks a rule.
    """
    if mesh.size("tp") == 1:
        return
    check_tensor(config, facts)
    stay_outside_graphs()
    if config.tensor_parallel_mode == "1d":
        divide_in_line(
            model,
            plan,
            mesh,
            placements,
            sequence=config.enable_sequence_parallel,
            num_kv_heads=facts.num_kv_heads,
        )
        return
    if config.tensor_parallel_mode == "3d":
        tiling = cube_tiling(mesh, cube_side(config.tensor_parallel_degree), facts.vocab_size)
    else:
        tiling = grid_tiling(mesh, config.tensor_parallel_depth, grid_side(config), facts.vocab_size)
    divide_in_tiles(model, plan, tiling, mesh, placements)
