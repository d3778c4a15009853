"""Fully sharded data parallel (FSDP2, ZeRO-3): each rank keeps 1/size of parameters, gradients and optimiser
state.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from portable.core.errors import CapabilityError
from portable.device.protocol import Device
from portable.parallel.config import FsdpConfig, PrecisionConfig
from portable.parallel.mesh import Mesh
from portable.parallel.placement import Placements
from portable.parallel.strategies.native import NativeStrategy
from portable.parallel.strategies.peer import need_peers

# Models here return views of their last layer's result; nobody changes them in place.
warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view", category=UserWarning)


class FsdpStrategy(NativeStrategy):
    """Shards every block of the model, then the rest."""

    name = "fsdp"
    wraps_meta = True

    def __init__(self, config: FsdpConfig, precision: PrecisionConfig, mesh: Mesh, device: Device) -> None:
        super().__init__(config, precision, mesh, device)
        self.config = config
        self.group = mesh.group("shard")
        need_peers(self.name, self.group)
        self.torch_mesh = mesh.torch_mesh("shard")

    def wrap(self, parts: Sequence[nn.Module], placements: Placements) -> None:
        """Shard the parts in place. Raises: CapabilityError if a parameter stayed whole."""
        super().wrap(parts, placements)
        policy = MixedPrecisionPolicy(
            param_dtype=self.precision.compute_dtype.torch(),
            reduce_dtype=self.precision.reduce_dtype.torch(),
            cast_forward_inputs=False,
        )
        for part in self.parts:
            for module in (*_blocks(part), part):
                fully_shard(
                    module,
                    mesh=self.torch_mesh,
                    mp_policy=policy,
                    reshard_after_forward=self.config.reshard_after_forward,
                )
            for module in part.modules():  # a setting is of one module, not of what is below it
                if isinstance(module, FSDPModule):
                    module.set_gradient_divide_factor(1.0)
                    module.set_force_sum_reduction_for_comms(True)
            whole = [name for name, found in part.named_parameters() if not isinstance(found, DTensor)]
            if whole or not isinstance(part, FSDPModule) or self.torch_mesh.size() != self.group.size:
                raise CapabilityError(
                    f"strategy=fsdp was to shard over {self.group.size} ranks of {self.group.communicator}, "
                    f"but torch spans {self.torch_mesh.size()} and left whole: {', '.join(whole) or 'nothing'}"
                )

    def accumulate(self, *, last: bool) -> None:
        """Let gradients travel on the last backward only."""
        for part in self.parts:
            if isinstance(part, FSDPModule):
                part.set_requires_gradient_sync(last)

    def describe(self) -> dict[str, Any]:  # Any: JSON values
        """Return what was set up."""
        return {
            "name": self.name,
            "world_size": self.group.size,
            "communicator": self.group.communicator,
            "reshard_after_forward": self.config.reshard_after_forward,
        }


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the members of every outermost list of modules: the units that repeat, hence are worth gathering
    one by one.
    """
    for child in module.children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from child.children()
        else:
            yield from _blocks(child)
