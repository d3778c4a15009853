"""Ring attention: keys and values go round, and every rank joins what its queries see of each block.

A rank passes on what it has before it computes with it, so two foreign blocks are alive at most: the one in
use and the one that arrives. All keys never are, neither forward nor backward.

Shapes: B rows, T tokens of this rank, N query heads, K key-value heads, H head_dim, S segments.
Source: Liu et al. 2023, arXiv:2310.01889; joining blocks: Milakov and Gimelshein 2018, arXiv:1805.02867.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from portable.collective.protocol import Exchange, Group
from portable.kernel.entry import Kernel
from portable.kernel.reference.precision import accumulation_dtype
from portable.kernel.registry import KernelSet
from portable.parallel.context.order import Chunks, TokenOrder

Visit = Callable[["_Block", Tensor, Tensor], None]
"""Is given what this rank's queries see of a block, and the block's keys and values, on every round."""


@dataclass(frozen=True, slots=True)
class BlockKernels:
    """Attention with lse: ``own`` for a rank's own keys, causal, ``other`` for keys that are seen wholly."""

    own: Kernel
    other: Kernel

    @classmethod
    def pick(cls, kernels: KernelSet, facts: Mapping[str, Any]) -> Self:  # Any: see Op.facts
        """Pick both for heads of which ``facts`` are known."""
        own, other = (
            kernels.pick("attention", "with_lse", causal=causal, **facts) for causal in (True, False)
        )
        return cls(own, other)


class RingAttention(nn.Module):
    """Takes the place of an attention core whose ranks hold the tokens of a row as ``order`` deals them."""

    def __init__(self, order: TokenOrder, group: Group, kernels: BlockKernels) -> None:
        super().__init__()
        self._ring = _Ring(order, group, kernels)

    def forward(self, q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor, cu_seqlens: Tensor | None) -> Tensor:
        """Return (B, T, N, H of v). ``cu_seqlens`` (S + 1,) bounds the segments over all ranks' tokens."""
        return _Attend.apply(q_BTNH, k_BTKH, v_BTKH, cu_seqlens, self._ring)


@dataclass(frozen=True, slots=True)
class _Block:
    """The queries that see keys of one rank, and those keys: spans of tokens, and bounds of segments."""

    queries: slice
    keys: slice
    cu_seqlens: Tensor | None
    cu_seqlens_k: Tensor | None
    is_own: bool

    @property
    def is_empty(self) -> bool:
        """Whether no query sees a key."""
        return self.queries.start == self.queries.stop


@dataclass(frozen=True, slots=True)
class _Ring:
    """What stays the same from call to call."""

    order: TokenOrder
    group: Group
    kernels: BlockKernels

    def blocks(self, num_tokens: int, cu_seqlens: Tensor | None) -> list[_Block]:
        """Return what this rank sees of its own keys, of those of the rank before it, and so on."""
        order, rank = self.order, self.group.rank
        length = num_tokens * order.size
        counts = None if cu_seqlens is None else order.count_before(cu_seqlens, length)
        step = length // order.num_chunks

        def block(queries: Chunks, keys: Chunks, *, is_own: bool) -> _Block:
            if not queries:
                return _Block(slice(0, 0), slice(0, 0), None, None, is_own)
            spans = slice(num_tokens - len(queries) * step, num_tokens), slice(0, len(keys) * step)
            return _Block(*spans, _add_up(counts, queries), _add_up(counts, keys), is_own)

        own = block(order.chunks(rank), order.chunks(rank), is_own=True)
        sources = [(rank - distance) % order.size for distance in range(1, order.size)]
        return [own, *(block(*order.seen(rank, source), is_own=False) for source in sources)]

    def go_round(self, blocks: list[_Block], k: Tensor, v: Tensor, visit: Visit) -> None:
        """Visit every block with its keys and values; the next are on their way meanwhile."""
        here = [k, v]
        for place, block in enumerate(blocks):
            passing = self.pass_on(here) if place + 1 < len(blocks) else None
            visit(block, *here)
            if passing is not None:
                here = passing.wait()

    def pass_on(self, tensors: list[Tensor]) -> Exchange:
        """Begin to send tensors to the next rank, and to receive those of the one before."""
        following, before = (self.group.rank + 1) % self.group.size, (self.group.rank - 1) % self.group.size
        return self.group.begin_exchange(
            [(tensor, following) for tensor in tensors], [(tensor, before) for tensor in tensors]
        )

    def attend(self, block: _Block, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return output and lse of a block's queries, keys and values, the latter filled up to the width of
        the keys for the kernel if they are narrower."""
        width, missing = v.shape[-1], k.shape[-1] - v.shape[-1]
        kernel = self.kernels.own if block.is_own else self.kernels.other
        out, lse = kernel(
            q,
            k,
            F.pad(v, (0, missing)) if missing else v,
            cu_seqlens=block.cu_seqlens,
            cu_seqlens_k=block.cu_seqlens_k,
            causal=block.is_own,
        )
        return out[..., :width], lse


class _Attend(torch.autograd.Function):
    """Keeps q, k, v, the output and its lse. Backward, k and v go round once more, and blocks are computed
    anew."""

    # Any: the context is torch's own
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor | None, ring: _Ring) -> Tensor:
        blocks = ring.blocks(q.shape[1], cu_seqlens)
        mixture = _Mixture(ring, q, accumulation_dtype(q, k, v))
        ring.go_round(blocks, k, v, mixture.add)
        out = mixture.out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, mixture.lse)
        ctx.ring, ctx.blocks = ring, blocks
        return out

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, out, lse = ctx.saved_tensors
        gradients = _Gradients(ctx.ring, (q, k, v), (out, lse), grads[0])
        ctx.ring.go_round(ctx.blocks, k, v, gradients.add)
        grad_q, grad_k, grad_v = gradients.finish()
        return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype), None, None


class _Mixture:
    """Output and lse of all keys visited so far; a rank's own come first, so every query has seen one."""

    def __init__(self, ring: _Ring, q: Tensor, dtype: torch.dtype) -> None:
        self._ring, self._q, self._dtype = ring, q, dtype
        self.out = self.lse = q.new_empty(0)

    def add(self, block: _Block, k: Tensor, v: Tensor) -> None:
        """Let more keys in.

        With d = lse of the new keys - lse, their share is 1 / (1 + exp(-d)).
        """
        if block.is_empty:
            return
        part, lse_part = self._ring.attend(
            block, self._q[:, block.queries], k[:, block.keys], v[:, block.keys]
        )
        part = part.to(self._dtype)
        if block.is_own:
            self.out, self.lse = part, lse_part
            return
        out, lse = self.out[:, block.queries], self.lse[:, block.queries]
        out.lerp_(part, torch.sigmoid(lse_part - lse).unsqueeze(-1).to(out.dtype))
        lse.copy_(torch.logaddexp(lse, lse_part))


class _Gradients:
    """Gradients of q, k and v from that of the output.

    With l the lse of all keys and l_b, O_b those of block b: O = sum of w_b O_b, w_b = exp(l_b - l). So a
    gradient dO of O gives O_b the gradient w_b dO, and l_b the gradient w_b dO (O_b - O)^T, and the kernel
    knows what these give q and the block's k and v.

    Gradients of foreign keys follow them round the ring: each rank adds its part, and the last sends them
    home. They add up and travel in float32.
    """

    def __init__(
        self, ring: _Ring, qkv: tuple[Tensor, Tensor, Tensor], result: tuple[Tensor, Tensor], grad: Tensor
    ) -> None:
        self._ring, self._q, self._grad = ring, qkv[0], grad
        self._out, self._lse = result
        dtype = accumulation_dtype(*qkv)
        self._grad_q, *self._own = (torch.zeros_like(x, dtype=dtype) for x in qkv)
        self._foreign = [torch.zeros_like(x) for x in self._own] if ring.order.size > 1 else []
        self._passing: Exchange | None = None

    def add(self, block: _Block, k: Tensor, v: Tensor) -> None:
        """Add what a block gives, and send on the gradients of its keys."""
        if block.is_own:
            self._add_block(block, k, v, self._own)
            return
        if self._passing is not None:
            self._foreign = self._passing.wait()
        if not block.is_empty:
            self._add_block(block, k, v, self._foreign)
        self._passing = self._ring.pass_on(self._foreign)

    def finish(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of this rank's q, k and v."""
        grad_k, grad_v = self._own
        if self._passing is not None:
            far_k, far_v = self._passing.wait()
            grad_k, grad_v = grad_k + far_k, grad_v + far_v
        return self._grad_q, grad_k, grad_v

    def _add_block(self, block: _Block, k: Tensor, v: Tensor, grad_kv: list[Tensor]) -> None:
        given = (self._q[:, block.queries], k[:, block.keys], v[:, block.keys])
        with torch.enable_grad():
            leaves = tuple(x.detach().requires_grad_() for x in given)
            part, lse_part = self._ring.attend(block, *leaves)
        share = torch.exp(lse_part.detach() - self._lse[:, block.queries]).unsqueeze(-1)
        grad_part = share * self._grad[:, block.queries]
        grad_lse = (grad_part * (part.detach() - self._out[:, block.queries])).sum(-1)
        # Where no segment has both queries and keys, results are constants.
        results = [(part, grad_part.to(part.dtype)), (lse_part, grad_lse)]
        results = [(result, gradient) for result, gradient in results if result.requires_grad]
        if not results:
            return
        outputs, gradients = zip(*results, strict=True)
        found = torch.autograd.grad(outputs, leaves, gradients, materialize_grads=True)
        totals = (self._grad_q[:, block.queries], *(x[:, block.keys] for x in grad_kv))
        for total, gradient in zip(totals, found, strict=True):
            total.add_(gradient)


def _add_up(counts: Tensor | None, chunks: Chunks) -> Tensor | None:
    """Return the bounds over several chunks, of ``TokenOrder.count_before``'s rows."""
    if counts is None:
        return None
    first, *others = chunks
    bounds = counts[first]
    for chunk in others:
        bounds = bounds + counts[chunk]
    return bounds
