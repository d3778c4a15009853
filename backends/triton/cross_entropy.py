"""Cross entropy and log-probabilities of logits. Shapes: N tokens, V vocabulary (this rank's columns of it).

Forward reads the logits once and keeps no more than two numbers a row; backward reads them a second time.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from backends.triton.launch import NAMESPACE
from backends.triton.softmax import row_statistics, softmax_gradient
from portable.kernel.reference.cross_entropy import Reduce
from portable.kernel.reference.log_prob import check_logits


def cross_entropy(logits_NV: Tensor, targets_N: Tensor, *, z_loss: float = 0.0) -> Tensor:
    """Compute ``cross_entropy`` of the reference."""
    check_logits("cross_entropy", logits_NV, targets_N)
    return _cross_entropy(logits_NV, targets_N, 1.0, z_loss)[0]


def gather_log_probs(logits_NV: Tensor, targets_N: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Compute ``gather_log_probs`` of the reference: a cross entropy with the sign turned."""
    check_logits("gather_log_probs", logits_NV, targets_N, temperature)
    return -_cross_entropy(logits_NV, targets_N, temperature, 0.0)[0]


def vocab_parallel_cross_entropy(
    logits_NV: Tensor, targets_N: Tensor, *, vocab_start: int, reduce: Reduce, z_loss: float = 0.0
) -> Tensor:
    """Compute ``vocab_parallel_cross_entropy`` of the reference."""
    check_logits("vocab_parallel_cross_entropy", logits_NV, targets_N)
    return _VocabParallel.apply(logits_NV, targets_N, vocab_start, reduce, z_loss)


@torch.library.custom_op(f"{NAMESPACE}::cross_entropy", mutates_args=())
def _cross_entropy(
    logits: Tensor, targets: Tensor, temperature: float, z_loss: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the losses, and the peak and the sum of every row."""
    peaks, sums, chosen = row_statistics(logits, targets, 0, temperature)
    return _losses(peaks, sums, chosen, z_loss), peaks, sums


@_cross_entropy.register_fake
def _(logits: Tensor, targets: Tensor, temperature: float, z_loss: float) -> tuple[Tensor, Tensor, Tensor]:
    losses, peaks, sums = (logits.new_empty(logits.shape[0], dtype=torch.float32) for _ in range(3))
    return losses, peaks, sums


# Any: the contexts are torch's own
def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, targets, ctx.temperature, ctx.z_loss = inputs
    ctx.save_for_backward(logits, targets, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _gradients(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    return softmax_gradient(grad, *ctx.saved_tensors, 0, ctx.temperature, ctx.z_loss), None, None, None


_cross_entropy.register_autograd(_gradients, setup_context=_keep)


class _VocabParallel(torch.autograd.Function):
    """Two reductions forward, none backward."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, vocab_start: int, reduce: Reduce, z_loss: float
    ) -> Tensor:
        peaks, sums, chosen = row_statistics(logits, targets, vocab_start, 1.0)
        # A copy, since the reduction may write into it.
        highest = reduce(peaks.clone(), "max")
        total, chosen = reduce(torch.stack((sums * (peaks - highest).exp(), chosen)), "sum").unbind(0)
        ctx.vocab_start, ctx.z_loss = vocab_start, z_loss
        ctx.save_for_backward(logits, targets, highest, total)
        # What the other ranks added to an ignored row is theirs to choose.
        return _losses(highest, total, chosen, z_loss).masked_fill_(targets < 0, 0.0)

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None, None, None, None]:
        grad = softmax_gradient(grad_outputs[0], *ctx.saved_tensors, ctx.vocab_start, 1.0, ctx.z_loss)
        return grad, None, None, None, None


def _losses(peaks: Tensor, sums: Tensor, chosen: Tensor, z_loss: float) -> Tensor:
    log_sums = sums.log()
    losses = log_sums + (peaks - chosen)
    return losses.add_((log_sums + peaks).square_(), alpha=z_loss) if z_loss else losses
