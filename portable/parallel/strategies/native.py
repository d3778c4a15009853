"""What the strategies of our own share: the trainer's optimiser steps, on parts that may be divided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from portable.core.errors import CapabilityError
from portable.device.protocol import Device
from portable.parallel.config import PrecisionConfig, StrategyConfig
from portable.parallel.gradient import clip_gradients, local, sum_partial_gradients
from portable.parallel.mesh import Mesh
from portable.parallel.placement import ParameterShard, Placement, Placements, original_name
from portable.parallel.strategies.replica import Divides, Replicas, Terms
from portable.parallel.strategy import StepOptimizer


class NativeStrategy:
    """Keeps parameters whole as ``terms`` say; a subclass may shard some of them before."""

    name = ""
    needs_peers = True
    wraps_meta = True
    shards_parameters = False

    def __init__(
        self, config: StrategyConfig, precision: PrecisionConfig, mesh: Mesh, device: Device, terms: Terms
    ) -> None:
        self.name = config.name
        self.precision = precision
        self.mesh = mesh
        self.device = device
        self.terms = terms
        self.parts: list[nn.Module] = []
        self.placements: Placements = {}
        self._optimizer: StepOptimizer | None = None
        self._replicas: Replicas | None = None
        self._holdings: list[ParameterShard] = []
        self._travels = True

    @property
    def modules(self) -> list[nn.Module]:
        """The parts as they are."""
        return self.parts

    def wrap(self, parts: Sequence[nn.Module], placements: Placements) -> None:
        """Take the parts, their parameters in ``precision.param_dtype``.

        Raises: CapabilityError if something else than what was asked for has been set up.
        """
        self.parts = list(parts)
        self.placements = placements
        dtype = self.precision.param_dtype.torch()
        for parameter in named_parameters(self.parts).values():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
        self._shard()
        if any(parameter.is_meta for parameter in named_parameters(self.parts).values()):
            self._narrow()
        else:
            self._settle()

    def shards(self) -> list[ParameterShard]:
        """Return what the optimiser updates: the trainable of ``holdings``."""
        return [shard for shard in self.holdings() if shard.parameter.requires_grad]

    def holdings(self) -> list[ParameterShard]:
        """Return this rank's part of every parameter."""
        self._settle()
        return self._holdings

    def attach(self, optimizer: StepOptimizer) -> None:
        """Keep the optimiser for ``step``."""
        self._optimizer = optimizer

    def accumulate(self, *, last: bool) -> None:
        """Let gradients travel on the last backward only, unless they are divided.

        Under a pipeline they stay until the end even so: its backward passes are parts of one, in an order
        that differs between ranks.
        """
        divided = self.terms.divides is Divides.gradients and self.mesh.size("pp") == 1
        self._travels = last or divided

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass; gradients travel while it runs."""
        reducer = self._settle().reducer
        reducer.begin(sends=self._travels)
        loss.backward()
        reducer.end()

    def reduce_gradients(self) -> None:
        """Let travel what has not, and add up what model-parallel ranks hold parts of.

        A parameter that nothing used gets a gradient of zero, under every strategy and layout.
        """
        self._settle().reducer.finish()
        shards = self.shards()
        for shard in shards:
            if shard.parameter.grad is None:
                shard.parameter.grad = torch.zeros_like(shard.parameter)
        sum_partial_gradients(shards, self.mesh)

    def clip_grad_norm(self, max_norm: float) -> Tensor:
        """Scale gradients to a norm of at most ``max_norm``; return the norm before."""
        return clip_gradients(self.shards(), self.mesh, max_norm)

    def step(self) -> None:
        """Update, drop the gradients, publish."""
        self.optimizer.step()
        self.skip()
        self._settle().publish(trained_only=True)

    def skip(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad()
        self._settle().reducer.reset()

    def publish(self) -> None:
        """Bring the parts of all ranks into the modules that compute."""
        self._settle().publish()

    def held(self) -> dict[str, list[Tensor]]:
        """Return nothing: all is in parameters, their gradients, and the optimiser."""
        return {}

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
        self._forget_gradients()  # of a step that was broken off
        self.publish()

    @property
    def optimizer(self) -> StepOptimizer:
        """The optimiser. Raises: CapabilityError before ``attach``."""
        if self._optimizer is None:
            raise CapabilityError(f"strategy={self.name} has no optimiser yet; call attach() first")
        return self._optimizer

    def _forget_gradients(self) -> None:
        self._settle().reducer.reset()

    def _shard(self) -> None:
        """Shard in place what is not to compute whole: nothing."""

    def _narrow(self) -> None:
        """Let parameters that have no memory yet ask for no more than what computes will need."""
        dtype = self.precision.compute_dtype.torch()
        for parameter in named_parameters(self.parts).values() if self.terms.casts else ():
            if parameter.is_floating_point() and not isinstance(parameter, DTensor):
                parameter.data = parameter.data.to(dtype)

    def _settle(self) -> Replicas:
        """Once the parameters have memory, find what the optimiser updates."""
        if self._replicas is None:
            named = named_parameters(self.parts)
            whole = {name: found for name, found in named.items() if not isinstance(found, DTensor)}
            self._replicas = Replicas(
                whole, self.placements, self.terms, self.precision, self.mesh, self.device
            )
            self._holdings = [
                self._replicas.holdings.get(name) or ParameterShard(name, found, self._placement(name, found))
                for name, found in named.items()
            ]
        return self._replicas

    def _placement(self, name: str, parameter: nn.Parameter) -> Placement:
        """Return the placement with the cuts that torch made for us as a DTensor."""
        placement = self.placements.get(name, Placement(tuple(parameter.shape)))
        if isinstance(parameter, DTensor):
            names = parameter.device_mesh.mesh_dim_names or ()
            for axis, how in zip(names, parameter.placements, strict=True):
                if isinstance(how, Shard):
                    placement = placement.cut(how.dim, axis)
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
