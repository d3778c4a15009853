"""Losses over a vocabulary in C++: each row of logits is read once, and nothing else of its size is kept.

Shapes: N tokens, D hidden, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from backends.cpu.kernel.layout import dense
from backends.cpu.kernel.library import load_native, takes
from backends.cpu.kernel.log_prob import compute_log_probs, softmax_by_torch
from portable.kernel.reference import cross_entropy as reference
from portable.kernel.reference import log_prob

_native = load_native()


def token_log_probs(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """Compute ``token_log_probs`` of the reference, with N * V numbers kept where that is affordable."""
    return compute_log_probs(hidden_ND, weight_VD, targets_N, temperature, _softmax)


def gather_log_probs(logits_NV: Tensor, targets_N: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Compute ``gather_log_probs`` of the reference."""
    if not takes(logits_NV):
        return log_prob.gather_log_probs(logits_NV, targets_N, temperature=temperature)
    log_prob.check_logits("gather_log_probs", logits_NV, targets_N, temperature)
    return -_Loss.apply(logits_NV, targets_N, 0.0, temperature)


def cross_entropy(logits_NV: Tensor, targets_N: Tensor, *, z_loss: float = 0.0) -> Tensor:
    """Compute ``cross_entropy`` of the reference."""
    if not takes(logits_NV):
        return reference.cross_entropy(logits_NV, targets_N, z_loss=z_loss)
    log_prob.check_logits("cross_entropy", logits_NV, targets_N)
    return _Loss.apply(logits_NV, targets_N, z_loss, 1.0)


def _softmax(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    if logits.dtype != torch.float32:
        return softmax_by_torch(logits, targets, temperature)
    return _native.softmax_(logits, targets, temperature)


class _Loss(torch.autograd.Function):
    """lse - x[target] + z_loss lse^2 with x = logits / temperature; keeps the logits and lse.

    d loss / d logits = (softmax (1 + 2 z_loss lse) - onehot(target)) / temperature.
    """

    # Any: the context is torch's own
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, z_loss: float, temperature: float) -> Tensor:
        shifts, log_sums, chosen = _native.log_norm(dense(logits), targets.contiguous(), temperature)
        ctx.save_for_backward(logits, targets, shifts, log_sums)
        ctx.z_loss, ctx.temperature = z_loss, temperature
        losses = (shifts - chosen) + log_sums
        return losses + z_loss * (shifts + log_sums).square() if z_loss else losses

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        logits, targets, shifts, log_sums = ctx.saved_tensors
        of_target = (grads[0] / ctx.temperature).contiguous()
        of_probs = of_target * (1 + 2 * ctx.z_loss * (shifts + log_sums)) if ctx.z_loss else of_target
        grad = _native.log_norm_backward(
            dense(logits), targets.contiguous(), shifts, log_sums, of_probs, of_target, ctx.temperature
        )
        return grad, None, None, None
