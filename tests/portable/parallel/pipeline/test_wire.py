"""A stage that returns something else than its peer awaits is noticed before it is sent."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from portable.collective.local import LocalGroup, NothingUnderWay
from portable.core.errors import ShapeError
from portable.parallel.pipeline.plan import Message, Phase
from portable.parallel.pipeline.wire import Wire


class Clock:
    def waiting(self) -> AbstractContextManager[None]:
        return nullcontext()


class Recorder(LocalGroup):
    """Takes down what is sent."""

    def __init__(self) -> None:
        super().__init__("pp")
        self.sent: list[Tensor] = []

    def begin_exchange(self, sends: Any, receives: Any) -> NothingUnderWay:
        self.sent += [tensor for tensor, _ in sends]
        return NothingUnderWay()


def send(wire: Wire, tensor: Tensor, micro_batch: int) -> None:
    message = Message(0, micro_batch, is_gradient=False)
    wire.put(message, tensor)
    wire.begin(Phase(((message, 1),), ()), [(1, 2, 8)] * 3)


def test_the_look_is_told_once_and_then_kept() -> None:
    group = Recorder()
    wire = Wire(group, torch.device("cpu"), Clock())
    hidden = torch.ones(2, 4, 6, dtype=torch.bfloat16)
    send(wire, hidden, 0)
    send(wire, hidden, 1)
    assert [tensor.tolist() for tensor in group.sent[:1]] == [[1, 3, 2, 4, 6, 0, 0, 0]]
    assert [tensor.shape for tensor in group.sent[1:]] == [hidden.shape] * 2
    with pytest.raises(ShapeError, match=r"stage 0 has float32 \(2, 4, 6\) to send for"):
        send(wire, hidden.float(), 2)


def test_what_is_no_hidden_state_is_refused() -> None:
    wire = Wire(Recorder(), torch.device("cpu"), Clock())
    with pytest.raises(ShapeError, match="a pipeline stage returned int64"):
        send(wire, torch.ones(2, dtype=torch.int64), 0)
