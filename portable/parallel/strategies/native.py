"""What the strategies of our own share: parameters are the modules', and the trainer's optimiser steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from portable.core.errors import CapabilityError
from portable.device.protocol import Device
from portable.parallel.config import PrecisionConfig, StrategyConfig
from portable.parallel.gradient import clip_gradients, local, sum_partial_gradients
from portable.parallel.mesh import Mesh
from portable.parallel.placement import ParameterShard, Placement, Placements, original_name
from portable.parallel.strategy import StepOptimizer


class NativeStrategy:
    """The parts of a strategy that do not depend on how state is divided."""

    name = ""
    needs_peers = True
    wraps_meta = False

    def __init__(
        self, config: StrategyConfig, precision: PrecisionConfig, mesh: Mesh, device: Device
    ) -> None:
        self.precision = precision
        self.mesh = mesh
        self.device = device
        self.parts: list[nn.Module] = []
        self.placements: Placements = {}
        self._optimizer: StepOptimizer | None = None
        self._shards: list[ParameterShard] | None = None

    @property
    def modules(self) -> list[nn.Module]:
        """The parts as they are."""
        return self.parts

    def wrap(self, parts: Sequence[nn.Module], placements: Placements) -> None:
        """Take the parts, their parameters in ``precision.param_dtype``."""
        self.parts = [part.to(dtype=self.precision.param_dtype.torch()) for part in parts]
        self.placements = placements

    def shards(self) -> list[ParameterShard]:
        """Return the parts' own trainable parameters."""
        if self._shards is None:
            self._shards = [shard for shard in self.holdings() if shard.parameter.requires_grad]
        return self._shards

    def holdings(self) -> list[ParameterShard]:
        """Return all of the parts' own parameters."""
        return [
            ParameterShard(name, parameter, self._placement(name, parameter))
            for name, parameter in named_parameters(self.parts).items()
        ]

    def attach(self, optimizer: StepOptimizer) -> None:
        """Keep the optimiser for ``step``."""
        self._optimizer = optimizer

    def accumulate(self, *, last: bool) -> None:
        """Do nothing: gradients travel in ``reduce_gradients``, if at all."""

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass."""
        loss.backward()

    def reduce_gradients(self) -> None:
        """Add up what model-parallel ranks hold parts of."""
        sum_partial_gradients(self.shards(), self.mesh)

    def clip_grad_norm(self, max_norm: float) -> Tensor:
        """Scale gradients to a norm of at most ``max_norm``; return the norm before."""
        return clip_gradients(self.shards(), self.mesh, max_norm)

    def step(self) -> None:
        """Update, drop the gradients, publish."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.publish()

    def publish(self) -> None:
        """Do nothing: the modules compute with what the optimiser updates."""

    def state(self) -> dict[str, tuple[Tensor, ParameterShard | None]]:
        """Return weights and the optimiser's state by name."""
        self.optimizer.prepare()
        found: dict[str, tuple[Tensor, ParameterShard | None]] = {}
        for shard in self.shards():
            weight = local(shard.parameter).detach()
            found[f"model/{shard.name}"] = (weight, shard)
            for key, value in self.optimizer.state_of(shard.parameter).items():
                lies_alike = value.shape == weight.shape
                found[f"optimizer/{shard.name}/{key}"] = (value, shard if lies_alike else None)
        return found

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take the values of ``state()``'s form."""
        self.optimizer.prepare()
        for shard in self.shards():
            local(shard.parameter).copy_(state[f"model/{shard.name}"])
            prefix = f"optimizer/{shard.name}/"
            own = {key: state[prefix + key] for key in self.optimizer.state_of(shard.parameter)}
            self.optimizer.load_state_of(shard.parameter, own)
        self.publish()

    @property
    def optimizer(self) -> StepOptimizer:
        """The optimiser. Raises: CapabilityError before ``attach``."""
        if self._optimizer is None:
            raise CapabilityError(f"strategy={self.name} has no optimiser yet; call attach() first")
        return self._optimizer

    def _placement(self, name: str, parameter: nn.Parameter) -> Placement:
        """Return the placement with the cuts that torch made for us as a DTensor."""
        placement = self.placements.get(name, Placement(tuple(parameter.shape)))
        if isinstance(parameter, DTensor):
            names = parameter.device_mesh.mesh_dim_names or ()
            for axis, how in zip(names, parameter.placements, strict=True):
                if how.is_shard():
                    placement = placement.cut(how.dim, axis)  # pyright: ignore[reportAttributeAccessIssue]
        return placement


def named_parameters(parts: Iterable[nn.Module]) -> dict[str, nn.Parameter]:
    """Return the parameters of all parts by the model's own names, each object once."""
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for part in parts:
        for name, parameter in part.named_parameters():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                found[original_name(name)] = parameter
    return found
