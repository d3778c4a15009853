"""Fully sharded data parallel (FSDP2, ZeRO-3): each rank keeps 1/size of parameters, gradients and optimiser
state, and gathers a block's parameters while the block computes. With replicas of the shards: HSDP.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from portable.core.errors import CapabilityError
from portable.device.protocol import Device
from portable.parallel.blocks import named_blocks
from portable.parallel.config import FsdpConfig, PrecisionConfig
from portable.parallel.memory.chunked_linear import ChunkedLinear
from portable.parallel.mesh import Mesh
from portable.parallel.placement import Placement, original_name
from portable.parallel.strategies.bucket import dim_to_divide
from portable.parallel.strategies.fsdp_state import finish_backward, groups_of
from portable.parallel.strategies.native import NativeStrategy, named_parameters
from portable.parallel.strategies.peer import checked_group
from portable.parallel.strategies.replica import Divides, Terms

# Models here return views of their last layer's result; nobody changes them in place.
warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view", category=UserWarning)
_REST_BUCKET_MB = 25
_DENSE = Placement(())  # where a parameter that nobody placed is divided


class FsdpStrategy(NativeStrategy):
    """Shards experts, then every block of the model, then the rest.

    What torch cannot shard (scalars, parameters of no elements or of several parts) computes whole, and so
    does what has one rank on its axis; it is kept as under ``zero1``.
    Gradients are divided after every micro-batch; replicas add theirs up after the last.
    """

    shards_parameters = True

    def __init__(self, config: FsdpConfig, precision: PrecisionConfig, mesh: Mesh, device: Device) -> None:
        terms = Terms(config.name, Divides.states, casts=True, bucket_mb=_REST_BUCKET_MB)
        super().__init__(config, precision, mesh, device, terms)
        self.config = config
        self.group = checked_group(self.name, "data", mesh, device)
        self.shard_group = checked_group(self.name, "shard", mesh, device)
        checked_group(self.name, _DENSE.replica, mesh, device)
        self._whole: set[nn.Parameter] = set()

    def accumulate(self, *, last: bool) -> None:
        """Keep gradients divided; under a pipeline, whose ranks wait for each other, whole until the end."""
        super().accumulate(last=last)
        pipelined = self.mesh.size("pp") > 1
        for part in self._sharded_parts():
            part.set_requires_all_reduce(last)
            if pipelined:
                part.set_requires_gradient_sync(last)
                part.set_reshard_after_backward(last)
                part.set_is_last_backward(last)

    def reduce_gradients(self) -> None:
        """Let travel what a pipeline's own backward passes have left, then as every strategy."""
        if self.mesh.size("pp") > 1:
            for part in self._sharded_parts():
                finish_backward(part)
        super().reduce_gradients()

    def publish(self) -> None:
        """Forget gathered parameters, which may be older than the shards."""
        super().publish()
        for part in self._sharded_parts():
            for module in _sharded_modules(part):
                module.reshard()

    def describe(self) -> dict[str, Any]:  # Any: JSON values
        """Return what was set up."""
        return {
            "name": self.name,
            "world_size": self.group.size,
            "shard_size": self.shard_group.size,
            "communicator": self.group.communicator,
            "reshard_after_forward": self.config.reshard_after_forward,
        }

    def _shard(self) -> None:
        held = Counter(parameter for part in self.parts for parameter in part.parameters())
        self._whole = {parameter for parameter, count in held.items() if count > 1}
        for part in self.parts:
            self._divide_tiled(part)
            self._shard_part(part)
            if not isinstance(part, FSDPModule):
                continue
            part.set_reduce_scatter_unused_params(True)
            for module in _sharded_modules(part):  # these two settings do not reach modules below
                module.set_gradient_divide_factor(1.0)  # portable: ignore[P06] - the next line keeps to sums
                module.set_force_sum_reduction_for_comms(True)

    def _divide_tiled(self, part: nn.Module) -> None:
        """Let linear layers that use their weights in tiles keep their own rows, and gather those tiles."""
        size = self.mesh.size(_DENSE.shard)
        for name, module in part.named_modules():
            if not isinstance(module, ChunkedLinear) or size == 1 or module.weight in self._whole:
                continue
            key = original_name(f"{name}.weight")
            placement = self.placements.get(key, Placement(tuple(module.weight.shape)))
            if placement.shard != _DENSE.shard:
                continue
            module.divide(self.mesh.group(_DENSE.shard), self.precision.reduce_dtype.torch())
            placement = replace(placement.cut(0, _DENSE.shard), data=_DENSE.replica, shard="")
            self.placements = {**self.placements, key: placement}

    def _shard_part(self, part: nn.Module) -> None:
        axes = {found: self._shard_axis(name, found) for name, found in named_parameters([part]).items()}
        if not any(axes.values()):
            return
        self._whole |= {parameter for parameter, axis in axes.items() if not axis}
        reshards = self.config.reshard_after_forward and self.mesh.size("pp") == 1
        policy = MixedPrecisionPolicy(
            param_dtype=self.precision.compute_dtype.torch(),
            reduce_dtype=self.precision.reduce_dtype.torch(),
            cast_forward_inputs=False,
        )

        def shard(module: nn.Module, axis: str) -> None:
            size = self.mesh.size(axis)
            fully_shard(
                module,
                mesh=self.mesh.torch_mesh(_DENSE.replica, axis),
                mp_policy=policy,
                # What is outside the blocks is needed again at once, by the backward pass.
                reshard_after_forward=reshards and module is not part,
                shard_placement_fn=lambda parameter: Shard(dim_to_divide(parameter.shape, size)),
                ignored_params=self._whole,
            )
            self._check(module, axis)

        for module, axis in _of_other_axes(part, axes):
            shard(module, axis)
        blocks = [block for _, block in named_blocks(part)]
        for module in (*blocks, part):
            shard(module, _DENSE.shard)
        _prefetch(blocks, self.config.num_prefetch_blocks)

    def _shard_axis(self, name: str, parameter: nn.Parameter) -> str:
        """Return the axis that divides a parameter, "" for none."""
        if parameter in self._whole:
            return ""
        axis = self.placements[name].shard if name in self.placements else _DENSE.shard
        divides = axis and parameter.ndim > 0 and parameter.numel() > 0 and self.mesh.size(axis) > 1
        return axis if divides else ""

    def _sharded_parts(self) -> list[FSDPModule]:
        return [part for part in self.parts if isinstance(part, FSDPModule)]

    def _check(self, module: nn.Module, axis: str) -> None:
        """Raises: CapabilityError if torch made something else of a module than was asked for."""
        axes = {"shard": axis, "replica": _DENSE.replica}
        wanted = {kind: self.mesh.group(own) for kind, own in axes.items() if self.mesh.size(own) > 1}
        found = dict(groups_of(module)) if isinstance(module, FSDPModule) else {}
        if found and any(group.process_group is not found.get(kind) for kind, group in wanted.items()):
            spans = ", ".join(f"{kind} {group.size()}" for kind, group in found.items())
            raise CapabilityError(
                f"strategy={self.name} was to spread {type(module).__name__} over the groups of the axes "
                f"{', '.join(f'{axes[kind]} ({group.size} ranks)' for kind, group in wanted.items())}, but "
                f"torch took others: {spans}"
            )
        for name, parameter in module.named_parameters():
            if not isinstance(parameter, DTensor) and parameter not in self._whole:
                raise CapabilityError(
                    f"strategy={self.name} was to shard {name} of {type(module).__name__} over the "
                    f"{self.mesh.size(axis)} ranks of axis '{axis}', but torch left it whole"
                )


def _of_other_axes(module: nn.Module, axes: Mapping[nn.Parameter, str]) -> Iterator[tuple[nn.Module, str]]:
    """Yield the outermost modules whose parameters are all divided by one axis, other than dense ones'."""
    for child in module.children():
        found = {axes[parameter] for parameter in child.parameters()}
        if len(found) == 1 and not found & {"", _DENSE.shard}:
            yield child, found.pop()
        else:
            yield from _of_other_axes(child, axes)


def _sharded_modules(part: FSDPModule) -> Iterator[FSDPModule]:
    for module in part.modules() if isinstance(part, nn.Module) else ():
        if isinstance(module, FSDPModule):
            yield module


def _prefetch(blocks: Sequence[nn.Module], count: int) -> None:
    """Let every block gather the ``count`` that follow it, in the forward and in the backward pass."""
    sharded: list[FSDPModule] = [block for block in blocks if isinstance(block, FSDPModule)]
    for place, block in enumerate(sharded if count else ()):
        block.set_modules_to_forward_prefetch(sharded[place + 1 : place + 1 + count])
        block.set_modules_to_backward_prefetch(sharded[max(place - count, 0) : place][::-1])
