"""What trains as one model on all ranks, as the trainer sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from portable.core.record import Batch
from portable.model.step import begin_step, finish_step, max_load
from portable.parallel.context.parallel import ContextParallel
from portable.parallel.loss_scale import LossScale
from portable.parallel.objective import LossSum, Objective
from portable.parallel.pipeline.executor import Pipeline
from portable.parallel.placement import Placements
from portable.parallel.runtime import Runtime
from portable.parallel.strategy import Strategy
from portable.parallel.whole import whole_buffers, whole_weights

Forward = Callable[[], AbstractContextManager[None]]
"""Opens the block that a training forward pass runs in."""


class SpreadModel:
    """A model whose ``parts`` this rank holds; called like the model that it was."""

    def __init__(
        self,
        runtime: Runtime,
        strategy: Strategy,
        parts: list[nn.Module],
        placements: Placements,
        context: ContextParallel,
        pipeline: Pipeline | None,
        forward: Forward,
    ) -> None:
        self.runtime = runtime
        self.strategy = strategy
        self.parts = parts
        self.placements = placements
        self.context = context
        self.pipeline = pipeline
        self.loss_scale = LossScale(runtime.precision)
        self._forward = forward
        self._scale = 1.0
        self._updates = True
        self._auxiliary: dict[str, Tensor] = {}

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
        """Run the model forward, and return on every rank what it returns for all tokens."""
        run = self.strategy.modules[0] if self.pipeline is None else self.pipeline.forward
        return self.context.forward(run, *args, **kwargs)

    def forward_backward(self, batches: Iterable[Batch], objective: Objective, scale: float) -> list[LossSum]:
        """Run all micro-batches of a step; gradients are those of the summed loss × ``scale``, added over all
        ranks. Returns each micro-batch's sums, which still have to be added over the axis ``data``.
        """
        self._scale = scale
        lifted = scale * self.loss_scale.factor
        begin_step(self.parts, lifted)
        sliced = map(self.context.slice, batches)
        if self.pipeline is not None:
            sums = self.pipeline.forward_backward(list(sliced), objective, lifted)
        else:
            sums = self._forward_backward(sliced, objective, lifted)
        if self.loss_scale.is_on:
            self.loss_scale.unscale(self.strategy.shards())
        return sums

    def _forward_backward(
        self, batches: Iterable[Batch], objective: Objective, scale: float
    ) -> list[LossSum]:
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

    def clip_grad_norm(self, max_norm: float) -> Tensor:
        """Scale gradients to a norm of at most ``max_norm``; return the norm before, 0 of a step that is
        ``left_out``.
        """
        norm = self.strategy.clip_grad_norm(max_norm)
        self._updates = self.loss_scale.judge(norm)
        return torch.zeros_like(norm) if self.left_out else norm

    @property
    def left_out(self) -> bool:
        """Whether the last step overflowed in fp16, and is tried again with other samples and a smaller
        factor. The same on all ranks.
        """
        return not self._updates and not self.loss_scale.is_spent

    def step(self) -> None:
        """Update the parameters, and what else learns from a step: the routers' biases."""
        if self._updates:
            self.strategy.step()
        else:
            self.strategy.skip()
        self._auxiliary = finish_step(self.parts, self.runtime.mesh.group("stage").all_reduce)

    def read_auxiliary(self) -> dict[str, float]:
        """Return the auxiliary losses of the last step, as parts of its mean loss, and the load of the
        busiest expert. All ranks must call; this waits for the device.
        """
        own = {name: float(value) for name, value in self._auxiliary.items()}
        load = max_load(self.parts)
        told = self.runtime.group.all_gather_object((own, None if load is None else float(load)))
        totals: dict[str, float] = {}
        for sums, _ in told:
            for name, value in sums.items():
                totals[name] = totals.get(name, 0.0) + value * self._scale
        loads = [found for _, found in told if found is not None]
        return totals | ({"expert_load_max": max(loads)} if loads else {})

    def read_bubble(self) -> dict[str, float | None]:
        """Return which share of the last step the ranks of the pipeline waited. All ranks must call."""
        return {} if self.pipeline is None else {"bubble_fraction": self.pipeline.meter.fraction()}

    def whole_weights(self) -> dict[str, Tensor]:
        """Return the whole weights, trained buffers included, on every rank's host; all ranks must call."""
        mesh = self.runtime.mesh
        weights = dict(whole_weights(self.strategy.holdings(), mesh, self.runtime.device))
        return weights | whole_buffers(self.parts, mesh)


def _mark_last(batches: Iterable[Batch]) -> Iterator[tuple[Batch, bool]]:
    ahead: Batch | None = None
    for batch in batches:
        if ahead is not None:
            yield ahead, False
        ahead = batch
    if ahead is not None:
        yield ahead, True
