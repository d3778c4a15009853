"""Ulysses: ranks trade tokens for heads, so that each attends to all tokens with some of the heads.

Shapes: B rows, T tokens of this rank, R ranks, N query heads, K key-value heads, H head_dim, S segments.
Source: Jacobs et al. 2023, arXiv:2309.14509, section 3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from portable.collective.protocol import Group
from portable.parallel.context.order import TokenOrder


class UlyssesAttention(nn.Module):
    """Calls ``core`` with all tokens that the ranks of ``group`` hold, in the row's order, and 1 / R of the
    heads.

    Where a rank would get less than one key-value head, those are repeated; R must be a multiple of K then,
    else K of R. Exact: nothing is computed but what ``core`` computes.
    """

    def __init__(self, core: nn.Module, order: TokenOrder, group: Group) -> None:
        super().__init__()
        self.core = core
        self._order = order
        self._group = group

    def forward(self, q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor, cu_seqlens: Tensor | None) -> Tensor:
        """Return (B, T, N, H of v). ``cu_seqlens`` (S + 1,) bounds the segments over all ranks' tokens."""
        copies = max(1, self._group.size // k_BTKH.shape[2])
        if copies > 1:
            k_BTKH, v_BTKH = (x.repeat_interleave(copies, dim=2) for x in (k_BTKH, v_BTKH))
        out = self.core(*(self._to_heads(x) for x in (q_BTNH, k_BTKH, v_BTKH)), cu_seqlens)
        return self._to_tokens(out)

    def _to_heads(self, x_BTNH: Tensor) -> Tensor:
        """Return (B, R * T, N / R, H): all tokens of this rank's heads."""
        sent = x_BTNH.unflatten(2, (self._group.size, -1)).movedim(2, 0)
        return self._order.whole(_Trade.apply(sent, self._group))

    def _to_tokens(self, x: Tensor) -> Tensor:
        """Undo ``_to_heads``."""
        arrived = _Trade.apply(self._order.parts(x), self._group)
        return arrived.movedim(0, 2).flatten(2, 3)


class _Trade(torch.autograd.Function):
    """Slice r of the first dim goes to rank r. Its transpose is itself."""

    # Any: the context is torch's own
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return group.all_to_all(x)

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.group.all_to_all(grads[0]), None
