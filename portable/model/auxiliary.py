"""Losses beside the main one, which belong to no output of the model.

A layer hangs such a loss on its hidden states: they pass unchanged, and their backward pass lets the loss
have a gradient, too. So it needs no way through the model, through pipeline stages or through an objective.

Like every loss here they are *sums*; ``scale``, 1 / number of terms of the step, makes them part of the mean.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Auxiliary:
    """The auxiliary losses of one model (of one pipeline stage): their common scale, and sums for the record.

    Sums are taken in the backward pass: it runs once, while recomputation runs the forward pass twice.
    """

    def __init__(self) -> None:
        self.scale = 1.0
        self._sums: dict[str, Tensor] = {}

    def attach(self, x: Tensor, name: str, value: Tensor) -> Tensor:
        """Return ``x``; its backward pass adds ``value`` to the sum ``name``, and if ``value`` is a loss (a
        differentiable scalar), gives it the gradient ``scale``.

        ``x`` must need a gradient; where none is taken this does nothing.
        """
        if not (torch.is_grad_enabled() and x.requires_grad):
            return x
        return _Attach.apply(x, value, self, name)

    def add(self, name: str, value: Tensor) -> None:
        """Add to a sum, without waiting for the device."""
        self._sums[name] = value if name not in self._sums else self._sums[name] + value

    def take(self) -> dict[str, Tensor]:
        """Return the sums since the last call, and forget them."""
        sums, self._sums = self._sums, {}
        return sums


class _Attach(torch.autograd.Function):
    # Any: the context is torch's own
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, auxiliary: Auxiliary, name: str) -> Tensor:
        ctx.value, ctx.auxiliary, ctx.name = value.detach(), auxiliary, name
        return x.view_as(x)

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, Tensor | None, None, None]:
        ctx.auxiliary.add(ctx.name, ctx.value)
        is_loss = ctx.needs_input_grad[1]
        scale = torch.full_like(ctx.value, ctx.auxiliary.scale) if is_loss else None
        return grad_outputs[0], scale, None, None
