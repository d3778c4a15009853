"""Regions of one dimension: where ranks compute with their own columns and rows, and what happens at the rim.

Shapes: B rows, T tokens, D hidden. Under sequence parallelism hidden states outside are (B, T / tp, D).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from portable.collective.protocol import Group
from portable.core.errors import ShapeError
from portable.parallel.tensor import transfer

AXIS = "tp"
TIME = 1  # the dim that sequence parallelism cuts


class Rim:
    """Hooks that bring hidden states into a region and add up what comes out."""

    def __init__(self, group: Group, hidden: str, *, sequence: bool) -> None:
        self.group = group
        self.hidden = hidden
        self.sequence = sequence

    def enter(self, x_BTD: Tensor) -> Tensor:
        """Return the whole hidden states, whose gradients the ranks hold parts of."""
        if self.sequence:
            return transfer.enter_cut(x_BTD, self.group, TIME)
        return transfer.enter(x_BTD, self.group)

    def leave(self, x_BTD: Tensor) -> Tensor:
        """Return the sum over ranks, with sequence parallelism this rank's tokens of it."""
        if self.sequence:
            return transfer.leave_cut(x_BTD, self.group, TIME)
        return transfer.leave(x_BTD, self.group)

    def surround(self, region: nn.Module) -> None:
        """Put a region between ``enter`` and ``leave``."""
        region.register_forward_pre_hook(self._before, with_kwargs=True)
        region.register_forward_hook(self._after)

    # Any: whatever the region takes and returns besides hidden states
    def _before(
        self, region: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (self.enter(args[0]), *args[1:]), kwargs
        if self.hidden not in kwargs:
            raise ShapeError(
                f"{type(region).__name__} was called without its hidden states: pass them first or as "
                f"{self.hidden}="
            )
        return args, kwargs | {self.hidden: self.enter(kwargs[self.hidden])}

    def _after(self, region: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):  # with attention weights or router logits behind
            first, *others = output
            return (self.leave(first), *others)
        return self.leave(output)


class RowLinear(nn.Module):
    """A row with a bias, which only the first rank adds: the results of all ranks are added up."""

    def __init__(self, linear: nn.Linear, group: Group) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias
        self._factor = 1.0 if group.rank == 0 else 0.0  # and no None: every rank needs a gradient to add up

    def forward(self, x: Tensor) -> Tensor:
        """Return this rank's part of x W^T + b."""
        return F.linear(x, self.weight, self.bias * self._factor)
