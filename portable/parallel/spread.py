"""A model spread over a mesh: passes cut it in a fixed order, a data strategy keeps its state.

The order is: pipeline stages, tensor (with sequence) parallel, context, experts, recomputation, low
precision, compilation, data strategy. A pass changes modules and notes in ``placements`` what it cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from portable.core.record import Batch
from portable.parallel.gradient import local
from portable.parallel.objective import LossSum, Objective
from portable.parallel.placement import Placement, Placements
from portable.parallel.runtime import Runtime
from portable.parallel.strategies.native import named_parameters
from portable.parallel.strategy import Strategy
from portable.parallel.whole import whole_weights

Fill = Callable[[str], Tensor]
"""Returns the whole initial value of a parameter, on the host, the same on every rank."""
Forward = Callable[[], AbstractContextManager[None]]


class SpreadModel:
    """What trains as one model on all ranks; called like the model that it was."""

    def __init__(
        self,
        runtime: Runtime,
        strategy: Strategy,
        parts: list[nn.Module],
        placements: Placements,
        forward: Forward,
    ) -> None:
        self.runtime = runtime
        self.strategy = strategy
        self.parts = parts
        self.placements = placements
        self._forward = forward

    @property
    def training(self) -> bool:
        """Whether the parts are in training mode."""
        return self.parts[0].training

    def train(self, mode: bool = True) -> None:
        """Set the mode of all parts."""
        for part in self.parts:
            part.train(mode)

    def eval(self) -> None:
        """Leave training mode."""
        self.train(mode=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:  # Any: what the model takes
        """Run the model forward."""
        return self.strategy.modules[0](*args, **kwargs)

    def forward_backward(self, batches: Iterable[Batch], objective: Objective, scale: float) -> list[LossSum]:
        """Run all micro-batches of a step; gradients are those of the summed loss × ``scale``, added over all
        ranks. Returns each micro-batch's sums, which still have to be added over the axis ``data``.
        """
        sums: list[LossSum] = []
        for batch, last in _mark_last(batches):
            self.strategy.accumulate(last=last)
            with self._forward():
                loss_sum = objective(self.strategy.modules[0], batch)
            self.strategy.backward(loss_sum.loss * scale)
            # Kept as tensors: fetching a number here would let the host wait for the device.
            sums.append(LossSum(loss_sum.loss.detach(), loss_sum.metrics))
        self.strategy.reduce_gradients()
        return sums

    def whole_weights(self) -> dict[str, Tensor]:
        """Return the whole trained weights on every rank's host; all ranks must call."""
        return dict(whole_weights(self.strategy.holdings(), self.runtime.mesh, self.runtime.device))


def spread(model: nn.Module, runtime: Runtime, forward: Forward, *, fill: Fill | None = None) -> SpreadModel:
    """Spread ``model``, whose weights rank 0 decides.

    A model on the meta device gets its weights from ``fill``, each rank its own part only.
    """
    if fill is None:
        model.to(runtime.torch_device)
        _agree(model, runtime)
    placements: dict[str, Placement] = {
        name: Placement(tuple(parameter.shape)) for name, parameter in named_parameters([model]).items()
    }
    parts = [model]
    strategy = runtime.new_strategy()
    if fill is not None and not strategy.wraps_meta:
        _allocate(parts, runtime)
    strategy.wrap(parts, placements)
    if fill is not None:
        if strategy.wraps_meta:
            _allocate(parts, runtime)
        for shard in strategy.holdings():
            extent = shard.placement.extent(runtime.mesh)
            with torch.no_grad():
                local(shard.parameter).copy_(extent.of(fill(shard.name)))
        strategy.publish()
    return SpreadModel(runtime, strategy, parts, placements, forward)


def _agree(model: nn.Module, runtime: Runtime) -> None:
    """Give every rank the weights of rank 0."""
    if runtime.group.size > 1:
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = runtime.group.broadcast(tensor.data)


def _allocate(parts: list[nn.Module], runtime: Runtime) -> None:
    for part in parts:
        part.to_empty(device=runtime.torch_device)


def _mark_last(batches: Iterable[Batch]) -> Iterator[tuple[Batch, bool]]:
    ahead: Batch | None = None
    for batch in batches:
        if ahead is not None:
            yield ahead, False
        ahead = batch
    if ahead is not None:
        yield ahead, True
