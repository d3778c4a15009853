"""The layers of a tiled decoder; each takes the place of one and keeps its parameters' names.

Shapes: B rows and T tokens of this rank, D this rank's part of hidden, N = B · T, V of the vocabulary.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from portable.collective.protocol import Group, ReduceOp
from portable.core.errors import CapabilityError
from portable.kernel.reference.cross_entropy import vocab_parallel_cross_entropy
from portable.kernel.reference.log_prob import check_logits
from portable.kernel.reference.precision import accumulation_dtype
from portable.model.decoder import Decoder
from portable.model.norm import AddRmsNorm, RmsNorm
from portable.parallel.mesh import Mesh
from portable.parallel.placement import Placement, chunk
from portable.parallel.tensor import transfer
from portable.parallel.tensor.tile.tiling import Product, Tiling
from portable.parallel.tensor.vocabulary import CHUNK_VALUES


class TiledLinear(nn.Module):
    """x W^T + b over tiles."""

    def __init__(self, linear: nn.Linear, multiply: Product) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias: nn.Parameter | None = linear.bias
        self._multiply = multiply

    def forward(self, x: Tensor) -> Tensor:
        """Return (B', T, out') for (B, T, in')."""
        y = self._multiply(x.flatten(0, -2), self.weight)
        y = y.view(-1, *x.shape[1:-1], y.shape[-1])
        return y if self.bias is None else y + self.bias


class TiledEmbedding(nn.Module):
    """E[ids] over tiles."""

    def __init__(self, embedding: nn.Embedding, look_up: Product) -> None:
        super().__init__()
        self.weight = embedding.weight
        self._look_up = look_up

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Return (B, T, D)."""
        return self._look_up(ids_BT, self.weight)


class TiledNorm(nn.Module):
    """RMSNorm, and with a residual AddRmsNorm, of vectors whose dims are cut: ranks add up their squares."""

    def __init__(self, norm: RmsNorm | AddRmsNorm, size: int, group: Group) -> None:
        super().__init__()
        self.weight = norm.weight
        self.eps = norm.eps
        self.size = size
        self.group = group

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Return the normed ``x``, or the normed sum and the sum."""
        if residual is not None:
            x = x + residual
        wide = x.to(accumulation_dtype(x))
        own = wide.square().sum(-1, keepdim=True)
        # All ranks use the sum, each for its dims, so that its gradient adds up as it does.
        squares = transfer.link(own, self.group.all_reduce, self.group.all_reduce)
        normed = self.weight * (wide * torch.rsqrt(squares / self.size + self.eps)).to(x.dtype)
        return normed.to(x.dtype) if residual is None else (normed.to(x.dtype), x)


class TiledHead:
    """Takes the place of a decoder's head."""

    def __init__(
        self, model: Decoder, tiling: Tiling, placement: Placement, mesh: Mesh, vocab_size: int
    ) -> None:
        self.model = model
        self.tiling = tiling
        self.placement = placement
        self.mesh = mesh
        self.columns = mesh.group(tiling.inner)
        _, self.most_columns = chunk(vocab_size, self.columns.size, 0)  # all ranks have the same chunks
        self.vocab_start, _ = chunk(vocab_size, self.columns.size, self.columns.rank)
        model.log_probs = self.log_probs
        model.target_logits = self.target_logits
        model.logits = self.logits

    def log_probs(
        self, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, temperature: float = 1.0
    ) -> Tensor:
        """Return log p(target) (N,) float32 of the tokens of ``targets_N``: this rank's between columns and
        rows.

        A chunk of logits is alive at a time, and made again for the backward pass.
        """
        step = max(1, CHUNK_VALUES // self.most_columns)
        parts: list[Tensor] = []
        for start in range(0, max(1, len(targets_N)), step):
            rows = slice(start, start + step)
            compute = partial(self._chunk, temperature=temperature)
            parts.append(
                checkpoint(compute, hidden_ND[rows], weight_VD, targets_N[rows], use_reentrant=False)
            )
        return torch.cat(parts)

    def target_logits(self, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        """Raises: CapabilityError: the z-loss is not made for tiles."""
        raise CapabilityError(
            "the z-loss of the head is not there for parallel.tensor_parallel_mode=2d, 2.5d and 3d; use "
            "tensor_parallel_mode=1d, or a z-loss coefficient of 0"
        )

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """Return all logits (..., vocabulary), for inference, of whole hidden states alike on all ranks."""
        extent = self.placement.extent(self.mesh)
        weight = self.model.head_weight_VD
        own = F.linear(hidden.narrow(-1, extent.offset[1], weight.shape[1]), weight)
        for cut in self.placement.cuts[1:]:
            own = self.mesh.group(cut.axis).all_reduce(own)
        rows = self.mesh.group(self.placement.cuts[0].axis)
        return transfer.make_whole(own, rows, own.ndim - 1, self.placement.shape[0])

    def _chunk(self, hidden: Tensor, weight: Tensor, targets: Tensor, *, temperature: float) -> Tensor:
        logits = self.tiling.multiply_head(hidden, weight)
        check_logits("token_log_probs", logits, targets, temperature)
        logits = logits.to(accumulation_dtype(logits)) / temperature
        losses = vocab_parallel_cross_entropy(
            logits, targets, vocab_start=self.vocab_start, reduce=self._reduce
        )
        return -losses

    def _reduce(self, x: Tensor, op: str, /) -> Tensor:
        return self.columns.all_reduce(x, ReduceOp(op))
