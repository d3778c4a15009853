"""Cross entropy of logits and targets, per token. Shapes: N tokens, V vocabulary (this rank's columns of it).

A negative target is ignored: its loss is 0 and it gives no gradient, whatever its logits. Of other rows, a
target whose logit is -inf has an infinite loss, and a row of nothing but -inf gives nan, as in torch.
"""

from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from portable.kernel.reference.log_prob import check_logits
from portable.kernel.reference.precision import accumulation_dtype


class Reduce(Protocol):
    """Reduces over the ranks that share the vocabulary; it may write into ``x``."""

    def __call__(self, x: Tensor, op: Literal["max", "sum"], /) -> Tensor:
        """Return what all ranks' ``x`` come to, the same on every rank."""
        ...


def cross_entropy(logits_NV: Tensor, targets_N: Tensor, *, z_loss: float = 0.0) -> Tensor:
    """Return lse(logits) - logits[target] + z_loss * lse(logits)^2 of every row, lse being log(sum(exp)).

    The last term keeps the softmax's normaliser near 1.

    Shapes: targets_N (N,) int64 below V; returns (N,).
    Dtype: float32.
    Raises: ShapeError if the inputs do not fit.
    Source: torch.nn.functional.cross_entropy with reduction="none"; the z term: Chowdhery et al. 2022,
    arXiv:2204.02311, section 5.
    """
    check_logits("cross_entropy", logits_NV, targets_N)
    ignored_N = targets_N < 0
    # Ignored rows are cleared before the softmax: a nan there would reach the gradients even if masked after.
    logits = logits_NV.to(accumulation_dtype(logits_NV)).masked_fill(ignored_N[:, None], 0.0)
    log_norms = logits.logsumexp(-1)
    losses = log_norms - logits.gather(-1, targets_N.clamp(min=0)[:, None]).squeeze(-1)
    if z_loss:
        losses = losses + z_loss * log_norms.square()
    return losses.masked_fill(ignored_N, 0.0)


def vocab_parallel_cross_entropy(
    logits_NV: Tensor, targets_N: Tensor, *, vocab_start: int, reduce: Reduce, z_loss: float = 0.0
) -> Tensor:
    """Return the ``cross_entropy`` of logits whose columns are spread over ranks.

    This rank holds the columns ``vocab_start .. vocab_start + V - 1``. ``reduce`` is called exactly twice:
    with "max" for the rows' largest logits (N,), then with "sum" for sum(exp(logit - max)) and the target's
    logit, stacked (2, N). The backward pass needs no communication: (softmax * (1 + 2 z_loss lse) -
    onehot(target)) * grad, of this rank's columns. Differentiable once.

    Shapes: targets_N (N,) int64, numbers of the whole vocabulary, the same on every rank; returns (N,).
    Dtype: float32.
    Raises: ShapeError if the inputs do not fit.
    Source: Shoeybi et al. 2019, arXiv:1909.08053, section 3.
    """
    check_logits("vocab_parallel_cross_entropy", logits_NV, targets_N)
    return _VocabParallel.apply(logits_NV, targets_N, vocab_start, reduce, z_loss)


class _VocabParallel(torch.autograd.Function):
    """Two reductions forward, none backward."""

    # Any: the context is torch's own
    @staticmethod
    def forward(
        ctx: Any, logits_NV: Tensor, targets: Tensor, vocab_start: int, reduce: Reduce, z_loss: float
    ) -> Tensor:
        logits = logits_NV.to(accumulation_dtype(logits_NV))
        # A rank may own no column at all; -inf is what the others' maximum and sum leave unchanged.
        own_max = logits.amax(-1) if logits.shape[1] else logits.new_full(targets.shape, -torch.inf)
        row_max = reduce(own_max, "max")
        columns, inside = own_columns(targets, vocab_start, logits.shape[1])
        own_sum = (logits - row_max[:, None]).exp_().sum(-1)
        own_sums = torch.stack((own_sum, own_logit(logits, columns, inside)))
        total, chosen = reduce(own_sums, "sum").unbind()
        log_norms = total.log() + row_max
        ctx.z_loss = z_loss
        ctx.save_for_backward(logits_NV, targets, columns, inside, log_norms)
        losses = log_norms - chosen
        if z_loss:
            losses += z_loss * log_norms.square()
        return losses.masked_fill_(targets < 0, 0.0)

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None, None, None, None]:
        logits_NV, targets, columns, inside, log_norms = ctx.saved_tensors
        grad = logits_grad(logits_NV, columns, inside, log_norms, grad_outputs[0], ctx.z_loss)
        return grad.masked_fill_((targets < 0)[:, None], 0.0).to(logits_NV.dtype), None, None, None, None


def own_columns(targets: Tensor, vocab_start: int, num_columns: int) -> tuple[Tensor, Tensor]:
    """Return the column of each target among ``num_columns`` of a rank, and whether this rank has it.

    The column is 0 where another rank has it.
    """
    columns = targets - vocab_start
    inside = (targets >= 0) & (columns >= 0) & (columns < num_columns)
    return columns.masked_fill(~inside, 0), inside


def own_logit(logits: Tensor, columns: Tensor, inside: Tensor) -> Tensor:
    """Return each row's logit at its column, 0 where it is not ``inside``."""
    if not logits.shape[1]:
        return logits.new_zeros(columns.shape)
    return logits.gather(-1, columns[:, None]).squeeze(-1).masked_fill_(~inside, 0.0)


def logits_grad(
    logits: Tensor, columns: Tensor, inside: Tensor, log_norms: Tensor, grad: Tensor, z_loss: float
) -> Tensor:
    """Return (softmax * (1 + 2 z_loss lse) - onehot) * grad, in the format of ``log_norms``.

    Rows of ignored targets are for the caller to clear.
    """
    probs = (logits.to(log_norms.dtype) - log_norms[:, None]).exp_()
    probs *= (grad * (1 + 2 * z_loss * log_norms) if z_loss else grad)[:, None]
    if not logits.shape[1]:
        return probs
    return probs.scatter_add_(-1, columns[:, None], (-grad).masked_fill(~inside, 0.0)[:, None])
