"""What a rank does with the micro-batches of one step: forward and backward passes through its stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from portable.core.errors import ShapeError
from portable.core.record import Batch
from portable.parallel.objective import LossSum, Objective
from portable.parallel.pipeline.deferred import Later, WeightGradients
from portable.parallel.pipeline.plan import Message
from portable.parallel.pipeline.schedule.action import Action, Kind
from portable.parallel.pipeline.schedule.table import Table
from portable.parallel.pipeline.wire import Wire
from portable.parallel.strategy import Strategy

Forward = Callable[[], AbstractContextManager[None]]
_Place = tuple[int, int]  # stage, micro-batch


@dataclass(frozen=True, slots=True)
class Task:
    """What a step is about: the model's input, what is minimised, and its factor."""

    batches: Sequence[Batch]
    objective: Objective
    scale: float


@dataclass(frozen=True, slots=True)
class _Passed:
    """What the backward pass of a micro-batch through a stage needs.

    ``root`` is the loss, or stands for what was sent on; the gradient of that goes into ``arrived``. The
    states that were sent are not kept.
    """

    root: Tensor
    hidden: Tensor | None
    arrived: list[Tensor]


class StageWork:
    """Does actions, in the order of ``table``. Everything of a micro-batch is let go with its last action.

    ``late`` puts weight gradients off; it is there if the table does so. ``sums`` fills with what the
    objective found, where the last stage is.
    """

    def __init__(
        self,
        stages: Mapping[int, nn.Module],
        table: Table,
        wire: Wire,
        strategy: Strategy,
        forward: Forward,
        late: WeightGradients | None,
        task: Task,
    ) -> None:
        self.sums: dict[int, LossSum] = {}
        self._stages = stages
        self._table = table
        self._wire = wire
        self._strategy = strategy
        self._forward = forward
        self._late = late
        self._task = task
        self._passed: dict[_Place, _Passed] = {}
        self._put_off: dict[_Place, list[Later]] = {}
        self._handed_over: dict[Message, Tensor] = {}  # between stages of this rank

    def do(self, action: Action) -> None:
        """Do one action; what it needs must have been begun on the wire."""
        place = action.stage, action.micro_batch
        if action.kind is Kind.forward:
            self._go_forward(*place)
        elif action.kind is Kind.weight_gradient:
            self._add_weight_gradients(place)
        elif self._late is not None and action.kind is Kind.input_gradient:
            with self._late.collect() as later:
                self._go_back(*place)
            self._put_off[place] = later
        else:
            self._go_back(*place)

    def _go_forward(self, stage: int, micro_batch: int) -> None:
        batch, module = self._task.batches[micro_batch], self._stages[stage]
        hidden = None
        if stage > 0:
            hidden = self._take(Message(stage - 1, micro_batch, is_gradient=False)).requires_grad_()
        inputs = batch.input_ids_BT if hidden is None else hidden
        arrived: list[Tensor] = []
        if stage == self._table.last_stage:
            with self._forward():
                loss_sum = self._task.objective(_bound(module, inputs, batch), batch)
            root = loss_sum.loss * self._task.scale
            self.sums[micro_batch] = LossSum(loss_sum.loss.detach(), loss_sum.metrics)
        else:
            with self._forward():
                out = module(inputs, batch.position_ids_BT, batch.cu_seqlens)
            root = _Root.apply(out, arrived)
            self._put(Message(stage, micro_batch, is_gradient=False), out.detach())
        self._passed[stage, micro_batch] = _Passed(root, hidden, arrived)

    def _go_back(self, stage: int, micro_batch: int) -> None:
        passed = self._passed.pop((stage, micro_batch))
        if stage < self._table.last_stage:
            passed.arrived.append(self._take(Message(stage + 1, micro_batch, is_gradient=True)))
        if passed.root.requires_grad:  # not if all of a first stage is frozen
            self._strategy.backward(passed.root)
        if passed.hidden is not None:
            gradient = passed.hidden.grad
            message = Message(stage, micro_batch, is_gradient=True)
            self._put(message, torch.zeros_like(passed.hidden) if gradient is None else gradient)

    def _add_weight_gradients(self, place: _Place) -> None:
        later = self._put_off.pop(place)
        while later:  # let each go as soon as it is done
            later.pop()()

    def _take(self, message: Message) -> Tensor:
        return self._handed_over.pop(message) if message in self._handed_over else self._wire.take(message)

    def _put(self, message: Message, tensor: Tensor) -> None:
        ranks = self._table.stage_rank
        if ranks[message.stage] == ranks[message.target_stage]:
            self._handed_over[message] = tensor
        else:
            self._wire.put(message, tensor)


class _Root(torch.autograd.Function):
    """A scalar to begin the backward pass of a stage at: the gradient of ``out`` is what has arrived by then.

    So whatever runs backward passes from a loss runs these, and ``out`` itself need not be kept.
    """

    @staticmethod
    def forward(ctx: Any, out: Tensor, arrived: list[Tensor]) -> Tensor:
        ctx.arrived = arrived
        return out.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.arrived.pop(), None


def _bound(module: nn.Module, inputs: Tensor, batch: Batch) -> Callable[..., Tensor]:
    """Return what the objective takes for the model: the last stage, which has its input already."""

    def model(input_ids_BT: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # Any: what the model takes
        if input_ids_BT.shape != batch.input_ids_BT.shape:
            raise ShapeError(
                f"the objective calls the model with ids of shape {tuple(input_ids_BT.shape)}, but the "
                f"pipeline's earlier stages had the micro-batch's own, {tuple(batch.input_ids_BT.shape)}; "
                "call it with those, or use parallel.pipeline_parallel_degree=1"
            )
        return module(inputs, *args, **kwargs)

    return model
