"""Collectives that autograd knows: what travels forward, and what its gradient does.

A value is *alike* on the ranks of a group (each computes the same with it, and has the whole gradient),
*partial* (the sum over ranks is meant, and each has the whole gradient of the sum) or *cut* along a dim.
A region of a divided model reads values that are alike or cut, and each rank finds a part of their gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from portable.collective.protocol import Group
from portable.parallel.placement import chunk

Move = Callable[[Tensor], Tensor]


class _Link(torch.autograd.Function):
    """One function forward, one for the gradient."""

    # Any: the context is torch's own
    @staticmethod
    def forward(ctx: Any, x: Tensor, go: Move, back: Move) -> Tensor:
        ctx.back = back
        return go(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        return ctx.back(grad_outputs[0].contiguous()), None, None


def _link(x: Tensor, go: Move, back: Move) -> Tensor:
    linked: Tensor = _Link.apply(x, go, back)
    return linked


_outside_graphs: Callable[[Tensor, Move, Move], Tensor] = _link


def stay_outside_graphs() -> None:
    """Let compiled modules be cut at every link: groups check and name their calls on the host, which no
    graph can hold.

    Not done at import, for the compiler takes a second or two to load.
    """
    global _outside_graphs
    decorated: Any = torch.compiler.disable(_link)  # Any: torch's types take it for a decorator's maker
    _outside_graphs = decorated


def link(x: Tensor, go: Move, back: Move) -> Tensor:
    """Return ``go(x)``; its gradient comes back through ``back``."""
    return _outside_graphs(x, go, back)


def enter(x: Tensor, group: Group) -> Tensor:
    """Hand a value that is alike to a region: unchanged, its gradients added up.

    Source: Shoeybi et al. 2019, arXiv:1909.08053, section 3, the operator f.
    """
    return link(x, _same, group.all_reduce)


def leave(x: Tensor, group: Group) -> Tensor:
    """Add up what the ranks of a region made; the operator g."""
    return link(x, group.all_reduce, _same)


def enter_cut(x: Tensor, group: Group, dim: int) -> Tensor:
    """Hand a region the whole of a value cut along ``dim``; its gradients are added up and cut.

    Source: Korthikanti et al. 2022, arXiv:2205.05198, section 4.2.2.
    """
    return link(x, partial(gather, group=group, dim=dim), partial(sum_and_cut, group=group, dim=dim))


def leave_cut(x: Tensor, group: Group, dim: int) -> Tensor:
    """Add up what the ranks of a region made, each keeping its part along ``dim``."""
    return link(x, partial(sum_and_cut, group=group, dim=dim), partial(gather, group=group, dim=dim))


def make_whole(x: Tensor, group: Group, dim: int, size: int) -> Tensor:
    """Return the whole, alike on all ranks, of a value whose ``dim`` of ``size`` is cut into chunks."""
    start, length = chunk(size, group.size, group.rank)
    return link(
        x, partial(_gather_uneven, group=group, dim=dim), lambda grad: grad.narrow(dim, start, length)
    )


def gather(x: Tensor, group: Group, dim: int) -> Tensor:
    """Return all ranks' equal parts, side by side along ``dim``. No gradient of its own."""
    return group.all_gather(x.contiguous()).movedim(0, dim).flatten(dim, dim + 1)


def sum_and_cut(x: Tensor, group: Group, dim: int) -> Tensor:
    """Return this rank's part along ``dim``, which must divide, of the sum over ranks."""
    parts = x.unflatten(dim, (group.size, -1)).movedim(dim, 0)
    return group.reduce_scatter(parts.flatten(0, 1).contiguous()).view(parts.shape[1:])


def _gather_uneven(x: Tensor, group: Group, dim: int) -> Tensor:
    return torch.cat(group.all_gather_uneven(x.movedim(dim, 0).contiguous())).movedim(0, dim)


def _same(x: Tensor) -> Tensor:
    return x.view_as(x)
