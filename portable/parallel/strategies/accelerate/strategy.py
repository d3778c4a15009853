"""Our trainer inside ``accelerate.Accelerator``: its wrappers keep the model, its calls run the passes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard

from portable.core.errors import CapabilityError
from portable.device.protocol import Device
from portable.parallel.blocks import named_blocks
from portable.parallel.config import PrecisionConfig
from portable.parallel.gradient import sum_partial_gradients
from portable.parallel.mesh import Mesh
from portable.parallel.placement import ParameterShard, Placement, Placements
from portable.parallel.strategies.accelerate.add import let_it_add
from portable.parallel.strategies.accelerate.config import AccelerateConfig
from portable.parallel.strategies.accelerate.join import (
    check_layout,
    check_prepared,
    join_accelerate,
    require_accelerate,
)
from portable.parallel.strategies.native import NativeStrategy, named_parameters
from portable.parallel.strategies.peer import checked_group
from portable.parallel.strategies.replica import Divides, Terms

if TYPE_CHECKING:
    from accelerate import Accelerator

_AXIS = "data"


class AccelerateStrategy(NativeStrategy):
    """Replicates (``ddp``) or shards (``fsdp2``) by what ``Accelerator.prepare`` makes of the model.

    Its wrappers average gradients; they are told to add, and everything else is as under our own strategies.
    """

    def __init__(
        self, config: AccelerateConfig, precision: PrecisionConfig, mesh: Mesh, device: Device
    ) -> None:
        terms = Terms(config.name, Divides.nothing, casts=False, bucket_mb=config.bucket_mb)
        super().__init__(config, precision, mesh, device, terms)
        require_accelerate(config, device)
        check_layout(mesh)
        self.config = config
        self.shards_parameters = config.plugin == "fsdp2"
        self.group = checked_group(self.name, _AXIS, mesh, device)
        self._accelerator: Accelerator | None = None
        self._quiet = ExitStack()

    @property
    def modules(self) -> list[nn.Module]:
        """What accelerate made of the model."""
        return self.parts

    @property
    def accelerator(self) -> Accelerator:
        """The Accelerator. Raises: CapabilityError before ``wrap``."""
        if self._accelerator is None:
            raise CapabilityError("strategy=accelerate has prepared no model yet; call wrap() first")
        return self._accelerator

    def wrap(self, parts: Sequence[nn.Module], placements: Placements) -> None:
        """Let accelerate prepare the model. Raises: CapabilityError if it made something else of it."""
        (model,) = parts
        self.placements = placements
        dtype = self.precision.param_dtype.torch()
        for parameter in named_parameters([model]).values():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
        classes = sorted({type(block).__name__ for _, block in named_blocks(model)})
        self._accelerator = join_accelerate(self.config, self.precision, self.group, self.device, classes)
        # FSDP2 takes no model without an optimiser. The trainer builds its own, once there are shards.
        placeholder = torch.optim.SGD(model.parameters(), lr=0.0)
        prepared, _ = self._accelerator.prepare(model, placeholder)
        self._accelerator._optimizers.clear()  # pyright: ignore[reportPrivateUsage]  # it has no way to give one back
        check_prepared(prepared, self.config, self.group)
        let_it_add(prepared)
        self.parts = [prepared]

    def holdings(self) -> list[ParameterShard]:
        """Return this rank's part of every parameter."""
        return [
            ParameterShard(name, parameter, self._placement(name, parameter))
            for name, parameter in named_parameters(self.parts).items()
        ]

    def accumulate(self, *, last: bool) -> None:
        """Keep replicas' gradients at home until the last backward; shards are added up each time."""
        self._quiet.close()
        if not last and self.config.plugin == "ddp":
            self._quiet.enter_context(self.accelerator.no_sync(self.parts[0]))

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass; gradients travel while it runs."""
        self.accelerator.backward(loss)

    def reduce_gradients(self) -> None:
        """Fill in gradients that nothing made; accelerate's wrappers have added up the others."""
        self._quiet.close()
        shards = self.shards()
        for shard in shards:
            if shard.parameter.grad is None:
                shard.parameter.grad = torch.zeros_like(shard.parameter)
        sum_partial_gradients(shards, self.mesh)

    def step(self) -> None:
        """Update, and drop the gradients."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def skip(self) -> None:
        """Drop the gradients of a step that is not made."""
        self._forget_gradients()

    def publish(self) -> None:
        """Forget gathered parameters, which may be older than the shards."""
        for module in self.parts[0].modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def describe(self) -> dict[str, Any]:  # Any: JSON values
        """Return what was really set up."""
        accelerator = self.accelerator
        return {
            "name": self.name,
            "plugin": self.config.plugin,
            "distributed_type": accelerator.distributed_type.value,
            "engine": type(self.parts[0]).__name__,
            "world_size": accelerator.num_processes,
            "communicator": self.group.communicator,
        }

    def _forget_gradients(self) -> None:
        self.optimizer.zero_grad()

    def _placement(self, name: str, parameter: nn.Parameter) -> Placement:
        """Return the placement with the cut that FSDP2 made over all ranks."""
        placement = self.placements.get(name, Placement(tuple(parameter.shape)))
        for how in parameter.placements if isinstance(parameter, DTensor) else ():
            if isinstance(how, Shard):
                placement = placement.cut(how.dim, _AXIS)
        return placement
