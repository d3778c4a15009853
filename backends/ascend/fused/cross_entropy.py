"""Cross entropy of logits and targets by the NPU's fused operator.

Shapes: N tokens, V vocabulary.
Dtype: float32. The operator returns its loss in the format of the logits, which is too coarse in 16 bits.
Limits: 200,000 rows a call (more take more calls).
Source: torch_npu 2.13.0, documentation of ``npu_cross_entropy_loss``: every target must be a class, a
negative ignore_index ignores nothing, and its z loss is not there yet; both are added here.
"""

from __future__ import annotations

from typing import Any

import torch
import torch_npu
from torch import Tensor
from torch.autograd.function import once_differentiable

from portable.kernel.reference import cross_entropy as reference
from portable.kernel.reference import log_prob as log_prob_reference

_MAX_ROWS = 200_000


def cross_entropy(logits_NV: Tensor, targets_N: Tensor, *, z_loss: float = 0.0) -> Tensor:
    """Compute ``cross_entropy`` of the reference."""
    log_prob_reference.check_logits("cross_entropy", logits_NV, targets_N)
    if logits_NV.numel() == 0:
        return reference.cross_entropy(logits_NV, targets_N, z_loss=z_loss)
    return _losses(logits_NV, targets_N, z_loss)


def gather_log_probs(logits_NV: Tensor, targets_N: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Compute ``gather_log_probs`` of the reference."""
    log_prob_reference.check_logits("gather_log_probs", logits_NV, targets_N, temperature)
    if logits_NV.numel() == 0:
        return log_prob_reference.gather_log_probs(logits_NV, targets_N, temperature=temperature)
    scaled = logits_NV if temperature == 1.0 else logits_NV.float() / temperature
    return -_losses(scaled, targets_N, 0.0)


def _losses(logits_NV: Tensor, targets_N: Tensor, z_loss: float) -> Tensor:
    parts = zip(logits_NV.split(_MAX_ROWS), targets_N.split(_MAX_ROWS), strict=True)
    return torch.cat([_CrossEntropy.apply(logits, targets, z_loss) for logits, targets in parts])


class _CrossEntropy(torch.autograd.Function):
    """The operator, the z loss and the rows that do not count."""

    # Any: the context is torch's own
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, z_loss: float) -> Tensor:
        wide, classes = logits.float().contiguous(), targets.clamp(min=0).contiguous()
        losses, log_probs, *_ = torch_npu.npu_cross_entropy_loss(wide, classes, reduction="none")
        # log(sum(exp)) is the largest logit less its log-probability, which is finite where the target's may
        # not be.
        log_norms = wide.amax(-1) - log_probs.amax(-1) if z_loss else None
        if log_norms is not None:
            losses = losses + z_loss * log_norms.square()
        ctx.z_loss, ctx.dtype = z_loss, logits.dtype
        ctx.save_for_backward(log_probs, targets, log_norms)
        return losses.masked_fill(targets < 0, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        log_probs, targets, log_norms = ctx.saved_tensors
        classes = targets.clamp(min=0).contiguous()
        # d z_loss lse^2 / d logits = 2 z_loss lse softmax: the operator gives softmax - onehot, so onehot is
        # added.
        of_norm = None if log_norms is None else 2 * ctx.z_loss * log_norms * grad
        d_logits = torch_npu.npu_cross_entropy_loss_backward(
            (grad if of_norm is None else grad + of_norm).contiguous(), log_probs, classes, reduction="none"
        )
        if of_norm is not None:
            d_logits = d_logits.scatter_add_(1, classes[:, None], of_norm[:, None])
        # Cleared last: a nan in a row that does not count would outlive any factor of 0.
        return d_logits.masked_fill_((targets < 0)[:, None], 0.0).to(ctx.dtype), None, None
