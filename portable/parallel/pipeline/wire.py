"""What travels between the stages of a pipeline: hidden states forward, their gradients back."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from portable.collective.protocol import Exchange, Group
from portable.core.errors import ShapeError
from portable.parallel.pipeline.plan import Message, Phase

Key = tuple[int, ...]
"""Micro-batches with one key have hidden states of one shape and dtype: whether it is training, and the shape
of the ids."""

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_MOST_DIMS = 6
_KEPT_PER_RANK = 4  # phases under way: two stages, in two directions


class Clock(Protocol):
    """Measures how long a rank waits."""

    def waiting(self) -> AbstractContextManager[None]:
        """Surround a wait."""
        ...


class Wire:
    """Begins the phases of a plan and keeps what has come.

    Hidden states need not have the shape of the ids, nor a known dtype: other passes may divide their tokens,
    or narrow them. So a sender tells their look ahead of the first of each kind of micro-batch; afterwards
    the receiver knows it without asking. A gradient looks as what it is the gradient of.
    """

    def __init__(self, group: Group, device: torch.device, clock: Clock) -> None:
        self.group = group
        self._device = device
        self._clock = clock
        self._looks: dict[tuple[int, Key], tuple[tuple[int, ...], torch.dtype]] = {}
        self._outgoing: dict[Message, Tensor] = {}
        self._coming: dict[Message, tuple[Exchange, int]] = {}
        self._under_way: deque[Exchange] = deque()
        if group.size > 1:  # some transports connect at the first call, in which all ranks must take part
            group.broadcast(torch.zeros(1, device=device))

    def put(self, message: Message, tensor: Tensor) -> None:
        """Give what the message's phase will send."""
        self._outgoing[message] = tensor

    def begin(self, phase: Phase, keys: Sequence[Key]) -> None:
        """Let the phase's tensors set out, and make room for those that come; ``keys`` by micro-batch."""
        self._tell_looks(phase, keys)
        sends = [(self._outgoing.pop(message), rank) for message, rank in phase.sends]
        receives = [(self._room(message, keys), rank) for message, rank in phase.receives]
        exchange = self.group.begin_exchange(sends, receives)
        for place, (message, _) in enumerate(phase.receives):
            self._coming[message] = exchange, place
        self._follow(exchange)

    def take(self, message: Message) -> Tensor:
        """Return what the message brought, once it is there."""
        exchange, place = self._coming.pop(message)
        with self._clock.waiting():
            return exchange.take(place)

    def finish(self) -> None:
        """Wait for the end of everything that was begun."""
        while self._under_way:
            self._wait_for_oldest()

    def _follow(self, exchange: Exchange) -> None:
        """Hold what is under way, but not for ever: what was sent keeps its memory until it is waited for.

        Phases older than a round trip of the pipeline are over by the plan, so nobody waits here.
        """
        self._under_way.append(exchange)
        if len(self._under_way) > _KEPT_PER_RANK * self.group.size:
            self._wait_for_oldest()

    def _wait_for_oldest(self) -> None:
        with self._clock.waiting():
            self._under_way.popleft().wait()

    def _tell_looks(self, phase: Phase, keys: Sequence[Key]) -> None:
        """Send and receive the looks that are not known yet; both ends of a boundary know the same ones."""
        heard = [(message, rank) for message, rank in phase.receives if self._is_new(message, keys)]
        told: list[tuple[Tensor, int]] = []
        for message, rank in phase.sends:
            tensor = self._outgoing[message]
            look = tuple(tensor.shape), tensor.dtype
            known = self._looks.setdefault(_boundary(message, keys), look)
            if known != look:
                raise ShapeError(
                    f"stage {message.stage} has {_name(look)} to send for micro-batch {message.micro_batch}, "
                    f"but its peer awaits {_name(known)}, as for the other micro-batches of its kind"
                )
            if known is look and not message.is_gradient:
                told.append((_write(look, self._device), rank))
        if not told and not heard:
            return
        blank = torch.zeros(_MOST_DIMS + 2, dtype=torch.int64, device=self._device)
        exchange = self.group.begin_exchange(told, [(blank, rank) for _, rank in heard])
        self._follow(exchange)
        if heard:
            with self._clock.waiting():
                looks = exchange.wait()
            for (message, _), look in zip(heard, looks, strict=True):
                self._looks[_boundary(message, keys)] = _read(look)

    def _is_new(self, message: Message, keys: Sequence[Key]) -> bool:
        return _boundary(message, keys) not in self._looks

    def _room(self, message: Message, keys: Sequence[Key]) -> Tensor:
        shape, dtype = self._looks[_boundary(message, keys)]
        return torch.zeros((), dtype=dtype, device=self._device).expand(shape)  # only a pattern: no memory


def _boundary(message: Message, keys: Sequence[Key]) -> tuple[int, Key]:
    return min(message.stage, message.target_stage), keys[message.micro_batch]


def _write(look: tuple[tuple[int, ...], torch.dtype], device: torch.device) -> Tensor:
    shape, dtype = look
    if len(shape) > _MOST_DIMS or dtype not in _DTYPES:
        raise ShapeError(
            f"a pipeline stage returned {_name(look)}; it must return floating-point hidden states of at "
            f"most {_MOST_DIMS} dims"
        )
    numbers = [_DTYPES.index(dtype), len(shape), *shape]
    return torch.tensor(numbers + [0] * (_MOST_DIMS + 2 - len(numbers)), dtype=torch.int64, device=device)


def _read(numbers: Tensor) -> tuple[tuple[int, ...], torch.dtype]:
    dtype, dims, *shape = numbers.tolist()
    return tuple(shape[:dims]), _DTYPES[dtype]


def _name(look: tuple[tuple[int, ...], torch.dtype]) -> str:
    return f"{str(look[1]).removeprefix('torch.')} {look[0]}"
