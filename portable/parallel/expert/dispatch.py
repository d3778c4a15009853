"""Tokens travel to the ranks that own their experts, and what the experts make of them travels back.

No expert has a capacity: whatever the load, every token arrives. Rows are ordered by expert, then by rank,
then by token, as one process orders them that holds all tokens: an expert that sees all of them in one call
computes the same numbers. Under autocast their gradients are rounded to its format once more on their way.

Shapes: N tokens of this rank, K experts a token, E experts, R ranks, D hidden. M = N * K rows leave, ordered
by expert, and A rows arrive, ordered by rank, then by expert.
Source: Lepikhin et al. 2020, arXiv:2006.16668, section 3.2, without a capacity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from portable.collective.protocol import Group
from portable.kernel.reference.precision import linear_dtype
from portable.kernel.registry import KernelSet
from portable.parallel.placement import chunk

Experts = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps x (N, D), weights (N, K) and the experts' numbers (N, K) to weighted sums of what they make of x."""


class Dispatch:
    """Lets ``group`` share a layer of ``num_experts`` experts: each rank owns a run of them, by ``chunk``.

    All ranks must call, and run the backward pass, the same number of times, with or without tokens.
    """

    def __init__(self, group: Group, num_experts: int, kernels: KernelSet) -> None:
        self.group = group
        self.num_experts = num_experts
        self._permute = kernels.pick("moe_permute", num_experts=num_experts)
        self._unpermute = kernels.pick("moe_unpermute")
        self._bounds = [chunk(num_experts, group.size, rank) for rank in range(group.size)]

    def __call__(self, own: Experts, x_ND: Tensor, weights_NK: Tensor, experts_NK: Tensor) -> Tensor:
        """Compute what ``own`` would if it were all experts; it is this rank's, numbered from 0.

        Shapes: returns (N, D). Dtype: that of ``own``'s result; rows travel in the format of its matmuls.
        """
        rows_MD, slots_NK, counts_E = self._permute(x_ND, experts_NK, self.num_experts)
        sent, received, owned_A = self._agree(counts_E)
        # Autocast would round them anyway, after twice the bytes had travelled.
        arrived_AD = _travel(rows_MD.to(linear_dtype(x_ND)), self.group, sent, received)
        # Every row is a token of one expert; its weight is known where it comes from.
        ones_A1 = weights_NK.new_ones(len(arrived_AD), 1)
        made_AD = own(arrived_AD, ones_A1, owned_A.unsqueeze(1))
        return self._unpermute(_travel(made_AD, self.group, received, sent), slots_NK, weights_NK)

    def _agree(self, counts_E: Tensor) -> tuple[list[int], list[int], Tensor]:
        """Tell each other the counts; return the rows to send to each rank, those to receive from each, and
        which of this rank's experts each of the latter is for (A,). The host waits for the device once.
        """
        counts_RE = self.group.all_gather(counts_E)
        start, length = self._bounds[self.group.rank]
        own_RE = counts_RE[:, start : start + length]
        leaving = [part.sum() for part in counts_E.split([length for _, length in self._bounds])]
        sent, received = torch.stack([torch.stack(leaving), own_RE.sum(1)]).tolist()
        numbers = torch.arange(length, device=counts_E.device).repeat(self.group.size)
        owned_A = numbers.repeat_interleave(own_RE.flatten(), output_size=sum(received))
        return sent, received, owned_A


def _travel(rows: Tensor, group: Group, sent: Sequence[int], received: Sequence[int]) -> Tensor:
    return _Travel.apply(rows, group, sent, received)


class _Travel(torch.autograd.Function):
    """Rows go to the ranks; their gradients come back the same way."""

    # Any: the context is torch's own
    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: Group, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        ctx.group, ctx.sent, ctx.received = group, sent, received
        return group.all_to_all_uneven(rows, sent, received)[0]

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None, None, None]:
        rows, _ = ctx.group.all_to_all_uneven(grad_outputs[0], ctx.received, ctx.sent)
        return rows, None, None, None
