"""Parameters that travel together: one buffer, in as many sections as ranks divide them.

Shapes: a buffer is (S, n), S ranks of the axis that divides, n elements a section. A section holds one rank's
part of every parameter; parts are those of ``torch.chunk``, and short ones leave zeros behind them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from portable.collective.protocol import Group
from portable.core.errors import CapabilityError
from portable.parallel.placement import chunk


@dataclass(frozen=True, slots=True)
class Route:
    """Where a gradient's sum goes: to each rank of ``shard`` its section, the same one along ``replica``."""

    shard: Group
    replica: Group

    @property
    def is_trivial(self) -> bool:
        """Whether this rank has the whole sum already."""
        return self.shard.size == self.replica.size == 1

    def sum(self, sections: Tensor) -> Tensor:
        """Return this rank's section (n,) of the sum over all ranks of (S, n)."""
        if self.is_trivial or sections.numel() == 0:
            return sections[0]
        own = self.shard.reduce_scatter(sections)[0] if self.shard.size > 1 else sections[0]
        return self.replica.all_reduce(own) if self.replica.size > 1 else own


def dim_to_divide(shape: Sequence[int], size: int) -> int:
    """Return the dim to divide over ``size`` ranks: 0, or where that has too few rows for all of them (as a
    stack of experts may) the first one that divides evenly.
    """
    if shape and 0 < shape[0] < size:
        return next((dim for dim, length in enumerate(shape) if length and length % size == 0), 0)
    return 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a parameter of ``shape``, divided along ``dim`` into ``count``, lies in a buffer's sections."""

    shape: tuple[int, ...]
    dim: int
    count: int
    offset: int

    @property
    def step(self) -> int:
        """Rows of a full part."""
        return -(-self.shape[self.dim] // self.count) if self.shape else 1

    @property
    def row(self) -> tuple[int, ...]:
        """The shape of one row."""
        return (*self.shape[: self.dim], *self.shape[self.dim + 1 :])

    @property
    def length(self) -> int:
        """Elements that a section keeps for it."""
        return self.step * math.prod(self.row)

    def pairs(self, buffer: Tensor, tensor: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return views of buffer (S, n) and ``tensor`` that hold the same elements: full parts, the last."""
        if tensor.numel() == 0:
            return []
        rows = tensor.movedim(self.dim, 0) if self.shape else tensor.view(1)
        full, rest = divmod(rows.shape[0], self.step)
        held = buffer[:, self.offset : self.offset + self.length]
        found = [
            (
                held[:full].unflatten(1, (self.step, *self.row)),
                rows[: full * self.step].unflatten(0, (full, self.step)),
            )
        ]
        if rest:
            found.append((held[full].view(self.step, *self.row)[:rest], rows[full * self.step :]))
        return [pair for pair in found if pair[0].numel()]

    def part(self, section: Tensor, index: int) -> Tensor:
        """Return the part of rank ``index`` in its section (n,): a view, in the parameter's order of dims."""
        held = section[self.offset : self.offset + self.length]
        if not self.shape:
            return held.view(())
        length = chunk(self.shape[self.dim], self.count, index)[1]
        return held.view(self.step, *self.row)[:length].movedim(0, self.dim)


@dataclass(eq=False, slots=True)
class Member:
    """A parameter that computes, and the part of it that this rank's optimiser updates (or itself)."""

    name: str
    parameter: nn.Parameter
    part: nn.Parameter
    place: Place


class Bucket:
    """Members that travel together. ``keeps_whole``: the whole gradient stays until the step is done;
    otherwise it is freed as soon as it has travelled, and only the own section stays.
    """

    def __init__(
        self, members: Sequence[Member], route: Route, travel_dtype: torch.dtype, *, keeps_whole: bool
    ) -> None:
        self.members = members
        self.route = route
        self.keeps_whole = keeps_whole
        self._travel_dtype = travel_dtype
        # Sums over micro-batches keep the wider format, and only the way is narrow, if one is.
        self._dtype = torch.promote_types(members[0].parameter.dtype, travel_dtype)
        last = members[-1].place
        self._shape = (route.shard.size, last.offset + last.length)
        self._whole: Tensor | None = None
        self._own: Tensor | None = None
        self._has_own = False
        self._filled: set[int] = set()  # members whose place holds something of this step
        self._arrived: set[int] = set()  # members that came in this backward pass

    @property
    def is_full(self) -> bool:
        """Whether every member's gradient of this backward pass is here."""
        return len(self._arrived) == len(self.members)

    @property
    def buffers(self) -> list[Tensor]:
        """The memory that is held."""
        return [found for found in (self._whole, self._own) if found is not None]

    def take(self, index: int) -> None:
        """Move a member's gradient in, if it has one; add it to what is here of earlier micro-batches."""
        member = self.members[index]
        gradient, member.parameter.grad = member.parameter.grad, None
        if gradient is None:
            return
        if self._whole is None:  # zeros, for what lies behind short parts travels too
            self._whole = torch.zeros(self._shape, dtype=self._dtype, device=gradient.device)
        for into, part in member.place.pairs(self._whole, gradient):
            if index in self._filled:
                into.add_(part)
            else:
                into.copy_(part)
        self._filled.add(index)
        self._arrived.add(index)

    def begin_pass(self) -> None:
        """Expect every member's gradient anew."""
        self._arrived.clear()

    def send(self) -> None:
        """Add up over ranks. All ranks of the route must call; gradients that are not here count as zero."""
        whole = self._whole
        if whole is None:
            whole = torch.zeros(self._shape, dtype=self._dtype, device=self.members[0].parameter.device)
            self._whole = whole if self.keeps_whole else None
        for index in set(range(len(self.members))) - self._filled:
            for into, _ in self.members[index].place.pairs(whole, self.members[index].parameter):
                into.zero_()
        own = self.route.sum(whole.to(self._travel_dtype)).to(self._dtype)
        if not self.keeps_whole:
            self._whole = None
            self._filled.clear()
            self._add_own(own)
        elif len(whole) > 1:
            whole[self.route.shard.rank].copy_(own)
        else:
            self._whole = own.unsqueeze(0)

    def _add_own(self, own: Tensor) -> None:
        if self._own is None:
            self._own = own
        elif self._has_own:
            self._own.add_(own)
        else:
            self._own.copy_(own)
        self._has_own = True

    def hand_over(self) -> None:
        """Give the optimiser's parts their gradients, in the memory that is held here."""
        rank = self.route.shard.rank
        section = self._own if self._whole is None else self._whole[rank]
        if section is None:
            raise CapabilityError("a gradient was asked for before any had travelled; call send() first")
        for member in self.members:
            gradient = member.place.part(section, rank)
            part = member.part
            if gradient.dtype is not part.dtype:
                if torch.promote_types(gradient.dtype, part.dtype) is not part.dtype:
                    gradient = gradient.to(part.dtype)
                else:
                    part.grad_dtype = None  # a narrow sum needs no wide copy: optimisers widen as they read
            part.grad = gradient

    def reset(self) -> None:
        """Forget the step's gradients; the memory stays for the next."""
        self._filled.clear()
        self._has_own = False

    @torch.no_grad()
    def publish(self) -> None:
        """Bring the parts of all ranks into the parameters that compute. All ranks of the shard axis call."""
        first = self.members[0].parameter
        section = torch.zeros(self._shape[1], dtype=first.dtype, device=first.device)
        for member in self.members:
            member.place.part(section, self.route.shard.rank).copy_(member.part)
        travels = self.route.shard.size > 1 and section.numel() > 0
        whole = self.route.shard.all_gather(section) if travels else section.expand(self._shape)
        for member in self.members:
            for held, into in member.place.pairs(whole, member.parameter):
                into.copy_(held)
