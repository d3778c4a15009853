"""Runs a pipeline: every rank does its row of a schedule's table, tensors travel in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from portable.core.errors import CollectiveError
from portable.core.record import Batch
from portable.device.protocol import Device
from portable.parallel.mesh import Mesh
from portable.parallel.objective import LossSum, Objective
from portable.parallel.pipeline.deferred import WeightGradients
from portable.parallel.pipeline.meter import BubbleMeter
from portable.parallel.pipeline.plan import Message, Phase, Step, lower
from portable.parallel.pipeline.schedule.select import Schedule
from portable.parallel.pipeline.wire import Key, Wire
from portable.parallel.pipeline.work import Forward, StageWork, Task
from portable.parallel.strategy import Strategy


class Pipeline:
    """The stages of all ranks of axis ``pp`` as one model.

    ``strategy.modules`` are this rank's stages in their order, as ``split_into_stages`` gave them. Gradients
    of all micro-batches stay on their rank until the last is done; ``strategy.reduce_gradients`` lets them
    travel, for with several stages a rank, and gradients that come late, there is no last backward pass
    during which they could.
    """

    def __init__(
        self, schedule: Schedule, strategy: Strategy, mesh: Mesh, device: Device, forward: Forward
    ) -> None:
        self.schedule = schedule
        self.strategy = strategy
        self.group = mesh.group("pp")
        self.meter = BubbleMeter(partial(device.new_event, timing=True), self.group)
        self._forward = forward
        self._device = device.torch_device(mesh.world.local_rank)
        self._wire = Wire(self.group, self._device, self.meter)
        self._steps: dict[int, list[Step]] = {}
        self._metric_names: list[str] | None = None

    @property
    def stages(self) -> dict[int, nn.Module]:
        """This rank's stages, by their number."""
        own = self.schedule.stages_of(self.group.rank)
        return dict(zip(own, self.strategy.modules, strict=True))

    def forward_backward(self, batches: Sequence[Batch], objective: Objective, scale: float) -> list[LossSum]:
        """Run all micro-batches of a step; gradients are those of the summed loss × ``scale``, added over all
        ranks. Returns each micro-batch's sums, the same on all ranks of the pipeline.

        The objective runs where the last stage is; it must call the model with the micro-batch's own ids.
        """
        self.meter.begin()
        self.strategy.accumulate(last=False)
        table = self.schedule.table(len(batches))
        late = WeightGradients() if table.splits_backward else None
        task = Task(batches, objective, scale)
        work = StageWork(self.stages, table, self._wire, self.strategy, self._forward, late, task)
        keys: list[Key] = [(1, *batch.input_ids_BT.shape) for batch in batches]
        with late or nullcontext():
            for step in self._steps_for(len(batches)):
                if isinstance(step, Phase):
                    self._wire.begin(step, keys)
                else:
                    work.do(step)
        self._wire.finish()
        with self.meter.waiting():
            sums = self._share(work.sums, len(batches))
        self.meter.end()
        self.strategy.reduce_gradients()
        return sums

    def forward(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # Any: what the model takes
        """Return what the whole model returns, on every rank; the ranks work one after the other."""
        key: Key = (0, *input_ids.shape)
        result: Tensor | None = None
        ranks, hidden = self.schedule.stage_rank, input_ids
        for stage, module in self.stages.items():
            if stage > 0 and ranks[stage - 1] != self.group.rank:
                coming = Message(stage - 1, 0, is_gradient=False)
                self._wire.begin(Phase((), ((coming, ranks[stage - 1]),)), [key])
                hidden = self._wire.take(coming)
            elif stage > 0 and result is not None:
                hidden = result
            result = sent = module(hidden, *args, **kwargs)
            if stage + 1 < len(ranks) and ranks[stage + 1] != self.group.rank:
                going = Message(stage, 0, is_gradient=False)
                self._wire.put(going, sent)
                self._wire.begin(Phase(((going, ranks[stage + 1]),), ()), [key])
        self._wire.finish()
        return self._broadcast_result(result)

    def _steps_for(self, num_micro_batches: int) -> list[Step]:
        if num_micro_batches not in self._steps:
            table = self.schedule.table(num_micro_batches)
            self._steps[num_micro_batches] = lower(table)[self.group.rank]
        return self._steps[num_micro_batches]

    @property
    def _last_rank(self) -> int:
        return self.schedule.stage_rank[-1]

    def _broadcast_result(self, result: Tensor | None) -> Tensor:
        look = None if result is None else (tuple(result.shape), result.dtype)
        shape, dtype = self.group.broadcast_object(look, self._last_rank)
        if self.group.rank != self._last_rank or result is None:
            result = torch.empty(shape, dtype=dtype, device=self._device)
        return self.group.broadcast(result.detach(), self._last_rank)

    def _share(self, sums: Mapping[int, LossSum], count: int) -> list[LossSum]:
        """Tell all ranks what the last stage found, in order of the micro-batches; the names only once."""
        ordered = [sums[micro_batch] for micro_batch in sorted(sums)]
        own_names = sorted(ordered[0].metrics) if ordered else []
        if self._metric_names is None:
            self._metric_names = list(self.group.broadcast_object(own_names, self._last_rank))
        names = self._metric_names
        if ordered and own_names != names:
            raise CollectiveError(
                f"the objective reports {own_names}, but reported {names} in its first step; the ranks of a "
                "pipeline learn the names once, so report the same ones in every step"
            )
        rows = [
            torch.stack([item.loss.float(), *(item.metrics[name].detach().float() for name in names)])
            for item in ordered
        ]
        table = torch.stack(rows) if rows else torch.empty(count, 1 + len(names), device=self._device)
        told = self.group.broadcast(table, self._last_rank)
        return [LossSum(row[0], dict(zip(names, row[1:], strict=True))) for row in told]
