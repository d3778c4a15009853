"""Fully sharded data parallel (FSDP2, ZeRO-3): each rank keeps 1/size of parameters, gradients and optimiser
state.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from portable.collective.protocol import Group
from portable.core.errors import CapabilityError
from portable.device.capability import Support
from portable.device.protocol import Device
from portable.parallel.config import FsdpConfig, PrecisionConfig
from portable.parallel.gradient import clip_gradients, host_state_dict
from portable.parallel.strategies.peer import need_peers

# Models here return views of their last layer's result; nobody changes them in place.
warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view", category=UserWarning)


class FsdpStrategy:
    """Shards every block of the model, then the rest; rank 0's weights are the ones that all start with."""

    name = "fsdp"
    needs_peers = True

    def __init__(self, config: FsdpConfig, precision: PrecisionConfig, group: Group, device: Device) -> None:
        self.mesh = DeviceMesh.from_group(
            need_peers(self.name, group), device.torch_type, mesh_dim_names=("fsdp",)
        )
        self.config = config
        self.precision = precision
        self.group = group
        self.device = device

    def wrap(self, model: nn.Module) -> nn.Module:
        """Shard the model in place and return it. Raises: CapabilityError if a parameter stayed whole."""
        model.to(dtype=self.precision.param_dtype.torch())
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = self.group.broadcast(tensor.data)
        policy = MixedPrecisionPolicy(
            param_dtype=self.precision.compute_dtype.torch(),
            reduce_dtype=self.precision.reduce_dtype.torch(),
            cast_forward_inputs=False,
        )
        for block in _blocks(model):
            fully_shard(
                block,
                mesh=self.mesh,
                mp_policy=policy,
                reshard_after_forward=self.config.reshard_after_forward,
            )
        fully_shard(
            model, mesh=self.mesh, mp_policy=policy, reshard_after_forward=self.config.reshard_after_forward
        )
        if self.device.capability().reduce_ops.get("mean") is not Support.native:
            for part in model.modules():  # the setting is of one module, not of what is below it
                if isinstance(part, FSDPModule):
                    part.set_force_sum_reduction_for_comms(True)  # torch divides after the sum
        whole = [name for name, parameter in model.named_parameters() if not isinstance(parameter, DTensor)]
        if whole or not isinstance(model, FSDPModule) or self.mesh.size() != self.group.size:
            raise CapabilityError(
                f"strategy=fsdp was to shard over {self.group.size} ranks of {self.group.communicator}, "
                f"but torch spans {self.mesh.size()} and left whole: {', '.join(whole) or 'nothing'}"
            )
        return model

    def accumulate(self, wrapped: nn.Module, *, last: bool) -> None:
        """Let gradients travel on the last backward only."""
        if not isinstance(wrapped, FSDPModule):
            raise CapabilityError(
                f"strategy=fsdp was given a {type(wrapped).__name__}; call wrap() first and train its result"
            )
        wrapped.set_requires_gradient_sync(last)

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass."""
        loss.backward()

    def clip_grad_norm(self, model: nn.Module, max_norm: float) -> Tensor:
        """Scale gradients to a global norm of at most ``max_norm``; return the norm before."""
        return clip_gradients(model, max_norm)

    def full_state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """Gather the weights on every rank's host."""
        return host_state_dict(model, self.device)

    def describe(self) -> dict[str, Any]:  # Any: JSON values
        """Return what was set up."""
        return {
            "name": self.name,
            "world_size": self.group.size,
            "communicator": self.group.communicator,
            "reshard_after_forward": self.config.reshard_after_forward,
        }


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the members of every outermost module list: the units that repeat, hence are worth gathering one
    by one.
    """
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _blocks(child)
