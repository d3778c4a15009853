"""The vocabulary divided over ranks: embedding, log-probabilities and logits.

Shapes: N tokens, D hidden, V this rank's rows of the vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from portable.collective.protocol import Group
from portable.kernel.reference.cross_entropy import logits_grad, own_columns, own_logit
from portable.kernel.reference.log_prob import check_inputs, without_ignored
from portable.kernel.reference.precision import accumulation_dtype, matmul_operands
from portable.model.head import HeadedModel
from portable.parallel.placement import chunk
from portable.parallel.tensor import transfer
from portable.parallel.tensor.region import Rim

# Logits alive at a time: 16 MiB in float32.
CHUNK_VALUES = 2**22


class ParallelEmbedding(nn.Module):
    """Looks up the ids that this rank holds; the others' rows are zeros, and the ranks' results are added."""

    def __init__(self, embedding: nn.Embedding, vocab_size: int, rim: Rim) -> None:
        super().__init__()
        self.weight = embedding.weight
        self.padding_idx = embedding.padding_idx
        self.rim = rim
        self.vocab_start, _ = chunk(vocab_size, rim.group.size, rim.group.rank)

    def forward(self, ids: Tensor) -> Tensor:
        """Return hidden states (..., D), with sequence parallelism this rank's tokens of them."""
        x = own_rows(ids, self.weight, self.vocab_start)
        if self.padding_idx is not None:  # as in nn.Embedding, its row learns nothing
            x = torch.where((ids == self.padding_idx).unsqueeze(-1), x.detach(), x)
        return self.rim.leave(x)


def own_rows(ids: Tensor, weight_VD: Tensor, vocab_start: int) -> Tensor:
    """Return the rows of ``ids`` (..., D) that stand in ``weight_VD``, and zeros for the other ids."""
    rows, inside = own_columns(ids, vocab_start, weight_VD.shape[0])
    if not weight_VD.shape[0]:  # nothing to look up; the sum of nothing keeps the weight in the graph
        return weight_VD.sum(0).expand(*ids.shape, -1)
    return F.embedding(rows, weight_VD).masked_fill(~inside.unsqueeze(-1), 0.0)


class ParallelLogProbs:
    """Log p(target) with a head whose rows are divided; takes the place of the ``token_log_probs`` kernel."""

    def __init__(self, vocab_size: int, group: Group) -> None:
        self.group = group
        self.vocab_start, _ = chunk(vocab_size, group.size, group.rank)

    def __call__(
        self, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, temperature: float = 1.0
    ) -> Tensor:
        """Return (N,) float32, the same on every rank; 0 for a negative target.

        ``hidden_ND`` and ``targets_N`` are alike on all ranks, and each finds a part of the gradient of the
        hidden states. Logits live a chunk of rows at a time, and only this rank's columns.
        """
        check_inputs(hidden_ND, weight_VD, targets_N, temperature)
        hidden, weight = matmul_operands(hidden_ND, weight_VD)
        compute = partial(_log_probs, vocab_start=self.vocab_start, group=self.group)
        return without_ignored(compute, hidden, weight, targets_N, temperature)


def _log_probs(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, *, vocab_start: int, group: Group
) -> Tensor:
    log_probs: Tensor = _LogProbs.apply(hidden, weight, targets, temperature, vocab_start, group)
    return log_probs


class _LogProbs(torch.autograd.Function):
    """Chunked forward, recomputing backward; the ranks meet once, forward, whatever the number of chunks.

    With s_r the logsumexp of a rank's logits and c_r the target's logit where rank r has it, else 0:
    log p = sum_r c_r - logsumexp_r(s_r).
    """

    # Any: the context is torch's own
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperature: float,
        vocab_start: int,
        group: Group,
    ) -> Tensor:
        columns, inside = own_columns(targets, vocab_start, weight.shape[0])
        own = torch.empty(2, len(targets), dtype=accumulation_dtype(hidden), device=hidden.device)
        for rows in _chunks(hidden, weight):
            logits = _logits(hidden[rows], weight, temperature)
            own[0, rows] = logits.logsumexp(-1)
            own[1, rows] = own_logit(logits, columns[rows], inside[rows])
        log_sums, chosen = group.all_gather(own).unbind(1)
        log_norms = log_sums.logsumexp(0)
        ctx.temperature = temperature
        ctx.save_for_backward(hidden, weight, columns, inside, log_norms)
        return chosen.sum(0) - log_norms

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        hidden, weight, columns, inside, log_norms = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        # Chunks add up in float32: their number must not decide how much is rounded away.
        grad_weight = (
            torch.zeros_like(weight, dtype=accumulation_dtype(weight)) if ctx.needs_input_grad[1] else None
        )
        for rows in _chunks(hidden, weight):
            logits = _logits(hidden[rows], weight, ctx.temperature)
            grad = -grad_outputs[0][rows] / ctx.temperature
            grad_logits = logits_grad(logits, columns[rows], inside[rows], log_norms[rows], grad, 0.0)
            grad_logits = grad_logits.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = grad_logits @ weight
            if grad_weight is not None:
                grad_weight += grad_logits.T @ hidden[rows]
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            *(None, None, None, None),
        )


class ParallelHead:
    """Takes the place of a model's head: hidden states come to every rank, each has its own columns."""

    def __init__(self, model: HeadedModel, vocab_size: int, rim: Rim) -> None:
        self.model = model
        self.vocab_size = vocab_size
        self.group = rim.group
        self.log_probs = ParallelLogProbs(vocab_size, rim.group)
        model.to_head = rim.enter
        model.log_probs = self.log_probs
        model.target_logits = self.target_logits
        model.logits = self.logits

    def target_logits(self, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        """Return hidden . weight[target] of every token, (N,) float32; 0 for a negative target."""
        dtype = accumulation_dtype(hidden_ND)
        rows_ND = own_rows(targets_N, weight_VD, self.log_probs.vocab_start)
        return transfer.leave((hidden_ND.to(dtype) * rows_ND.to(dtype)).sum(-1), self.group)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return all logits (..., vocabulary), for inference, of hidden states (..., D) that are alike on all
        ranks.
        """
        own = F.linear(transfer.enter(hidden, self.group), self.model.head_weight_VD)
        return transfer.make_whole(own, self.group, own.ndim - 1, self.vocab_size)


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    logits = (hidden @ weight.T).to(accumulation_dtype(hidden))
    return logits if temperature == 1.0 else logits / temperature


def _chunks(hidden: Tensor, weight: Tensor) -> list[slice]:
    step = max(1, CHUNK_VALUES // max(1, weight.shape[0]))
    return [slice(start, start + step) for start in range(0, hidden.shape[0], step)]
