"""A model spread over a mesh: passes cut it in a fixed order, a data strategy keeps its state.

The order is: pipeline stages, tensor (with sequence) parallel, context, experts, low precision, tiles, the
device's linear layers, compilation, recomputation (which repeats what was compiled), data strategy. A pass
changes modules and notes in ``placements`` what it cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from portable.core.errors import ConfigError
from portable.model.decoder import Decoder
from portable.model.hf.adapter import HfDecoder
from portable.parallel.compile import apply_compilation
from portable.parallel.context.parallel import ContextParallel
from portable.parallel.expert.apply import apply_expert_parallel
from portable.parallel.float8.linear import apply_float8
from portable.parallel.gradient import local
from portable.parallel.hf_plan import plan_of_hf
from portable.parallel.linear import apply_linear_kernels
from portable.parallel.memory.recompute import apply_recomputation
from portable.parallel.memory.tile import apply_tiles
from portable.parallel.pipeline.executor import Pipeline
from portable.parallel.pipeline.schedule.select import Schedule, make_schedule
from portable.parallel.pipeline.stage import split_into_stages
from portable.parallel.placement import Extent, Placement, original_name
from portable.parallel.runtime import Runtime
from portable.parallel.shard_plan import DECODER, ShardPlan
from portable.parallel.spread_model import Forward, SpreadModel
from portable.parallel.strategies.native import named_parameters
from portable.parallel.strategy import Strategy
from portable.parallel.tensor.apply import apply_tensor_parallel
from portable.parallel.tensor.check import TensorFacts, tensor_facts

Fill = Callable[[str, tuple[int, ...], Extent], Tensor]
"""Returns the part that lies in a box of the initial value of a parameter, by its name and whole shape."""


@dataclass(frozen=True, slots=True)
class Family:
    """How models of a kind divide: the table of their modules, and the sizes of this one."""

    plan: ShardPlan
    tensor: TensorFacts


def spread(
    model: nn.Module,
    runtime: Runtime,
    forward: Forward,
    *,
    fill: Fill | None = None,
    family: Family | None = None,
) -> SpreadModel:
    """Spread ``model``, whose weights rank 0 decides; decoders of ours need no ``family``.

    A model on the meta device gets its weights from ``fill``, each rank its own part only.
    Raises: ConfigError if the layout and the model do not go together.
    """
    if fill is None:
        model.to(runtime.torch_device)
        _agree(model, runtime)
    mesh, config = runtime.mesh, runtime.parallel
    family = family or _family_of(model, runtime)
    placements: dict[str, Placement] = {
        name: Placement(tuple(parameter.shape)) for name, parameter in named_parameters([model]).items()
    }
    schedule: Schedule | None = None
    parts = [model]
    if mesh.layout.pp > 1:
        schedule = make_schedule(config)
        layers = config.pipeline_parallel_layers_per_stage
        parts = split_into_stages(model, schedule, mesh, layers, placements)
    context = ContextParallel(mesh, config)
    shared = dict(model.named_children())
    for part in parts:
        _share(part, shared, model)
        if family is not None:
            apply_tensor_parallel(part, family.plan, mesh, config, family.tensor, placements)
            context.apply(part, family.plan, runtime.kernels)
            apply_expert_parallel(part, family.plan, mesh, runtime.kernels, config, placements)
        _refine(part, runtime, staged=schedule is not None)
    strategy = runtime.new_strategy()
    _wrap(strategy, parts, placements, runtime, fill)
    pipeline = None if schedule is None else Pipeline(schedule, strategy, mesh, runtime.device, forward)
    return SpreadModel(runtime, strategy, parts, placements, context, pipeline, forward)


def _refine(part: nn.Module, runtime: Runtime, *, staged: bool) -> None:
    """Change how blocks compute what they do."""
    config, float8 = runtime.parallel, runtime.precision.float8
    runtime.note("float8", apply_float8(part, float8, runtime.device.capability()))
    runtime.note("tiled", apply_tiles(part, config.tile))
    if not staged:  # a pipeline may put weight gradients off, and takes over torch's own product for it
        runtime.note("linear", apply_linear_kernels(part, runtime.kernels))
    runtime.note("compiled", apply_compilation(part, config, runtime.device))
    runtime.note("recomputed", apply_recomputation(part, config.recompute))


def _share(part: nn.Module, shared: dict[str, nn.Module], model: nn.Module) -> None:
    """Give a further stage of this rank what it shares with ``model``, as the passes have left it there."""
    for name, child in list(part.named_children()):
        if shared.get(name) is child:
            setattr(part, name, getattr(model, name))


def _family_of(model: nn.Module, runtime: Runtime) -> Family | None:
    if isinstance(model, Decoder):
        return Family(DECODER, tensor_facts(model.config))
    layout = runtime.mesh.layout
    if max(layout.tp, layout.cp, layout.ep) > 1:
        if isinstance(model, HfDecoder):
            return Family(*plan_of_hf(model, runtime.parallel))
        raise ConfigError(
            f"nobody has said how a {type(model).__name__} divides, so layout {layout} cannot be; use data "
            "and pipeline parallelism only, or give its family a ShardPlan"
        )
    return None


def _wrap(
    strategy: Strategy,
    parts: list[nn.Module],
    placements: dict[str, Placement],
    runtime: Runtime,
    fill: Fill | None,
) -> None:
    """Hand the parts to the strategy, and give those on the meta device memory and values."""
    if fill is None:
        strategy.wrap(parts, placements)
        return
    if not strategy.wraps_meta:
        _allocate(parts, runtime)
    strategy.wrap(parts, placements)
    if strategy.wraps_meta:
        _allocate(parts, runtime)
    for shard in strategy.holdings():
        extent = shard.placement.extent(runtime.mesh)
        with torch.no_grad():
            local(shard.parameter).copy_(fill(shard.name, shard.placement.shape, extent))
    for part in parts:
        for name, buffer in part.named_buffers():
            shape = tuple(buffer.shape)
            buffer.copy_(fill(original_name(name), shape, Extent((0,) * len(shape), shape)))
    strategy.publish()


def _agree(model: nn.Module, runtime: Runtime) -> None:
    """Give every rank the weights of rank 0."""
    if runtime.group.size > 1:
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = runtime.group.broadcast(tensor.data)


def _allocate(parts: list[nn.Module], runtime: Runtime) -> None:
    for part in parts:
        part.to_empty(device=runtime.torch_device)
