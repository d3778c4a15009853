"""One step of AdamW, for many tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from portable.core.errors import ConfigError, ShapeError


@torch.no_grad()
def adamw(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """Update every parameter and its two moments in place.

    m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
    w = (1 - lr weight_decay) w - lr / (1 - beta1^step) * m / (sqrt(v / (1 - beta2^step)) + eps)

    ``step`` is the number of this step, from 1.

    Shapes: the four of one place alike.
    Dtype: moments in their own format. The parameter in the wider of its own and its moments', then rounded
    once: bit for bit torch.optim.AdamW(foreach=False, fused=False) where all have one format, and better than
    it for 16-bit parameters with float32 moments.
    Raises: ShapeError if the lists or their tensors do not fit, ConfigError for a step below 1.
    Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, with torch's order of operations.
    """
    check_lists(params, grads, exp_avgs, exp_avg_sqs, step)
    step_size = lr / (1 - beta1**step)
    correction2_sqrt = (1 - beta2**step) ** 0.5
    for param, grad, exp_avg, exp_avg_sq in zip(params, grads, exp_avgs, exp_avg_sqs, strict=True):
        exp_avg.lerp_(grad.to(exp_avg.dtype), 1 - beta1)
        grad_v = grad.to(exp_avg_sq.dtype)
        exp_avg_sq.mul_(beta2).addcmul_(grad_v, grad_v, value=1 - beta2)
        denominator = (exp_avg_sq.sqrt() / correction2_sqrt).add_(eps)
        wide = torch.promote_types(param.dtype, torch.promote_types(exp_avg.dtype, exp_avg_sq.dtype))
        value = param.to(wide)
        if weight_decay != 0:
            value.mul_(1 - lr * weight_decay)
        value.addcdiv_(exp_avg.to(wide), denominator.to(wide), value=-step_size)
        if value is not param:
            param.copy_(value)


def check_lists(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    step: int,
) -> None:
    """Raise unless each parameter has a gradient and two moments of its shape, and ``step`` is at least 1."""
    lists = (params, grads, exp_avgs, exp_avg_sqs)
    if len({len(tensors) for tensors in lists}) != 1:
        counts = ", ".join(str(len(tensors)) for tensors in lists)
        raise ShapeError(
            f"adamw: got {counts} params, grads, exp_avgs, exp_avg_sqs; it needs as many of each"
        )
    for place, tensors in enumerate(zip(*lists, strict=True)):
        if len({tensor.shape for tensor in tensors}) != 1:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
            raise ShapeError(
                f"adamw: param, grad and moments number {place} have shapes {shapes}; they must agree"
            )
    if step < 1:
        raise ConfigError(f"adamw: step={step}; steps are counted from 1")
