"""AdamW by torch's fused operator: one walk over each tensor."""

from collections.abc import Sequence

import torch
from torch import Tensor

from portable.kernel.reference import adamw as reference


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
    """Compute ``adamw`` of the reference, to which tensors of several formats or with gaps are left."""
    reference.check_lists(params, grads, exp_avgs, exp_avg_sqs, step)
    numbers = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay}
    fitting: list[tuple[Tensor, ...]] = []
    others: list[tuple[Tensor, ...]] = []
    for tensors in zip(params, grads, exp_avgs, exp_avg_sqs, strict=True):
        (fitting if _fits(tensors) else others).append(tensors)
    if fitting:
        # Filled on the device: a copy from the host would let the host wait for all work before it.
        steps = [torch.full((), float(step), device=fitting[0][0].device)] * len(fitting)
        torch._fused_adamw_(*_columns(fitting), [], steps, amsgrad=False, maximize=False, **numbers)
    if others:
        reference.adamw(*_columns(others), step=step, **numbers)


def _fits(tensors: tuple[Tensor, ...]) -> bool:
    """Return whether the operator may take them: it walks over memory, and no gaps are seen."""
    return all(x.is_contiguous() and x.dtype == torch.float32 for x in tensors)


def _columns(rows: list[tuple[Tensor, ...]]) -> list[list[Tensor]]:
    return [list(column) for column in zip(*rows, strict=True)]
