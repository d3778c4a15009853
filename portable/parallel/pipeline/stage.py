"""Cuts a decoder into pipeline stages: each keeps some of the blocks, the first the embedding, the last the
norm, the head and whatever else the model has.

Nothing is copied, and names stay what they were in the whole model.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol, runtime_checkable

from torch import nn

from portable.core.errors import CapabilityError, ConfigError
from portable.parallel.gradient import TIED_AXIS
from portable.parallel.mesh import Mesh
from portable.parallel.pipeline.schedule.select import Schedule
from portable.parallel.placement import Placement

_FIRST, _BLOCKS = "embed", "blocks"


@runtime_checkable
class Stageable(Protocol):
    """A model of another tree than a decoder's, which says itself what a stage of it is."""

    @property
    def embedding_name(self) -> str:
        """The name of the embedding."""
        ...

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding's matrix."""
        ...

    def block_names(self) -> list[str]:
        """Return the names of the blocks. Raises: CapabilityError if the model cannot be cut."""
        ...

    def shell(self) -> nn.Module:
        """Return another module with the same children, which may be taken out of it."""
        ...

    def keep_stage(self, kept: Sequence[str], *, first: bool, last: bool) -> None:
        """Take out of the model all that a stage with the blocks ``kept`` has not."""
        ...


def split_into_stages(
    model: nn.Module,
    schedule: Schedule,
    mesh: Mesh,
    layers_per_stage: Sequence[int],
    placements: dict[str, Placement],
) -> list[nn.Module]:
    """Return the stages that this rank holds, in their order; the first of them is ``model`` itself.

    The other ranks' parts leave ``model`` and ``placements``. A head that is tied to the embedding, or
    multi-token prediction, keeps that on the last stage, too: on the same rank it is the same parameter; on
    another one, the gradients of both are parts of a sum. All ranks of the world must call.

    Raises: ConfigError if the layers do not go into the stages; CapabilityError if the model cannot be cut.
    """
    names = model.block_names() if isinstance(model, Stageable) else list(_blocks_of(model))
    num_stages = len(schedule.stage_rank)
    counts = count_layers(len(names), num_stages, layers_per_stage)
    ends = list(accumulate(counts))
    shares = _last_needs_embedding(model)
    first_rank, last_rank = schedule.stage_rank[0], schedule.stage_rank[-1]
    stages = schedule.stages_of(mesh.index("pp"))
    shells = [model, *(_shell(model) for _ in stages[1:])]
    for stage, part in zip(stages, shells, strict=True):
        kept = names[ends[stage] - counts[stage] : ends[stage]]
        _keep(part, kept, first=stage == 0, last=stage == num_stages - 1, shares=shares)
    if shares and first_rank != last_rank:
        mesh.tie(TIED_AXIS, "pp", (first_rank, last_rank))
    held = {name for part in shells for name, _ in part.named_parameters()}
    for name in [name for name in placements if name not in held]:
        del placements[name]
    if shares and first_rank != last_rank:
        embedding = model.embedding_name if isinstance(model, Stageable) else _FIRST
        for name in [name for name in placements if name.startswith(f"{embedding}.")]:
            placements[name] = placements[name].summed_over(TIED_AXIS)
    return shells


def count_layers(num_layers: int, num_stages: int, asked: Sequence[int]) -> list[int]:
    """Return the number of blocks of every stage: as asked, or as even as can be, the later ones having less,
    for the last has the head.

    Raises: ConfigError, with what would work.
    """
    if not asked:
        if num_layers < num_stages:
            raise ConfigError(
                f"the model has {num_layers} blocks for {num_stages} pipeline stages; use at most "
                f"{num_layers} stages (parallel.pipeline_parallel_degree × stages per rank), or name the "
                "blocks of each in parallel.pipeline_parallel_layers_per_stage, 0 for ends without any"
            )
        each, more = divmod(num_layers, num_stages)
        return [each + (stage < more) for stage in range(num_stages)]
    inner_empty = [stage for stage, count in enumerate(asked) if count < (0 < stage < num_stages - 1)]
    if len(asked) != num_stages or sum(asked) != num_layers or inner_empty:
        even = count_layers(num_layers, num_stages, ()) if num_layers >= num_stages else "fewer stages"
        raise ConfigError(
            f"parallel.pipeline_parallel_layers_per_stage={list(asked)} does not divide {num_layers} blocks "
            f"over {num_stages} stages, each with one or more (the first and the last may have 0); use "
            f"e.g. {even}"
        )
    return list(asked)


def _blocks_of(model: nn.Module) -> nn.ModuleDict:
    blocks = getattr(model, _BLOCKS, None)
    if not isinstance(blocks, nn.ModuleDict) or not hasattr(model, "first") or not hasattr(model, "last"):
        raise CapabilityError(
            f"a {type(model).__name__} cannot be cut into pipeline stages: that needs a module 'blocks' of "
            "kind ModuleDict, and flags 'first' and 'last', as Decoder has; use "
            "parallel.pipeline_parallel_degree=1"
        )
    return blocks


def _last_needs_embedding(model: nn.Module) -> bool:
    if isinstance(model, Stageable):
        return model.tied
    return getattr(model, "head", None) is None or bool(getattr(model, "mtp", None))


def _shell(model: nn.Module) -> nn.Module:
    """Return another module with the same children, which may be taken out of it."""
    if isinstance(model, Stageable):
        return model.shell()
    shell = copy.copy(model)
    for name, value in vars(model).items():
        if isinstance(value, dict):
            shell.__dict__[name] = copy.copy(value)
    return shell


def _keep(part: nn.Module, kept: Sequence[str], *, first: bool, last: bool, shares: bool) -> None:
    if isinstance(part, Stageable):
        part.keep_stage(kept, first=first, last=last)
        return
    blocks = _blocks_of(part)
    vars(part).update(first=first, last=last)
    setattr(part, _BLOCKS, nn.ModuleDict({name: blocks[name] for name in kept}))
    for name, _ in list(part.named_children()):
        stays = name == _BLOCKS or (first if name == _FIRST else last) or (name == _FIRST and last and shares)
        if not stays:
            setattr(part, name, None)
