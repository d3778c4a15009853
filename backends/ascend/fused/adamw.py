"""AdamW by the NPU's fused operator, one launch a tensor.

Source: torch_npu 2.13.0, documentation of ``npu_apply_adam_w``: the powers it is given are those of the step
before, beta^(t - 1); parameter, moments and gradient share one number format.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch_npu
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
    """Compute ``adamw`` of the reference."""
    reference.check_lists(params, grads, exp_avgs, exp_avg_sqs, step)
    beta1_power, beta2_power = beta1 ** (step - 1), beta2 ** (step - 1)
    for param, grad, exp_avg, exp_avg_sq in zip(params, grads, exp_avgs, exp_avg_sqs, strict=True):
        if param.numel() == 0:
            continue
        state = (param, exp_avg, exp_avg_sq)
        dtype = torch.float32 if len({x.dtype for x in (*state, grad)}) > 1 else grad.dtype
        # A copy where the format differs or the tensor is a scalar: the operator takes 1 to 8 dims.
        out = [torch.atleast_1d(x.to(dtype)) for x in state]
        torch_npu.npu_apply_adam_w(
            beta1_power,
            beta2_power,
            lr,
            weight_decay,
            beta1,
            beta2,
            eps,
            torch.atleast_1d(grad.to(dtype)),
            None,
            False,
            False,
            out=out,
        )
        for kept, updated in zip(state, out, strict=True):
            if updated.dtype != kept.dtype:
                kept.copy_(updated.view(kept.shape))
