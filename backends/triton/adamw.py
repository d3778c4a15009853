"""One step of AdamW, a launch a tensor: parameter and moments are read and written once, in any mix of
formats."""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from backends.triton.launch import NAMESPACE, launch
from backends.triton.tuning import tile
from portable.kernel.reference.adamw import check_lists


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
    check_lists(params, grads, exp_avgs, exp_avg_sqs, step)
    step_size = lr / (1 - beta1**step)
    correction = (1 - beta2**step) ** 0.5
    lists = (list(tensors) for tensors in (params, grads, exp_avgs, exp_avg_sqs))
    _step(*lists, 1 - beta1, beta2, 1 - beta2, step_size, correction, eps, 1 - lr * weight_decay)


@torch.library.custom_op(f"{NAMESPACE}::adamw", mutates_args=("params", "exp_avgs", "exp_avg_sqs"))
def _step(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    rate1: float,
    beta2: float,
    rate2: float,
    step_size: float,
    correction: float,
    eps: float,
    keep: float,
) -> None:
    for tensors in zip(params, grads, exp_avgs, exp_avg_sqs, strict=True):
        param = tensors[0]
        flat = [x.contiguous() for x in tensors]
        config = tile("elementwise", param.device)
        launch(
            _step_kernel,
            (triton.cdiv(param.numel(), config.n),),
            param,
            *flat,
            *(param.numel(), rate1, beta2, rate2, step_size, correction, eps, keep),
            BLOCK=config.n,
            **config.options,
        )
        for x, written in zip(tensors, flat, strict=True):
            if x is not tensors[1] and not x.is_contiguous():
                x.copy_(written)


@_step.register_fake
def _(*_: Any) -> None:  # Any: what _step takes
    return None


@triton.jit
def _step_kernel(
    param_ptr: tl.tensor,
    grad_ptr: tl.tensor,
    exp_avg_ptr: tl.tensor,
    exp_avg_sq_ptr: tl.tensor,
    size: tl.tensor,
    rate1: float,
    beta2: float,
    rate2: float,
    step_size: float,
    correction: float,
    eps: float,
    keep: float,
    BLOCK: tl.constexpr,
) -> None:
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    param = tl.load(param_ptr + at, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + at, mask=inside, other=0.0).to(tl.float32)
    mean = tl.load(exp_avg_ptr + at, mask=inside, other=0.0).to(tl.float32)
    square = tl.load(exp_avg_sq_ptr + at, mask=inside, other=0.0).to(tl.float32)
    # The parameter moves by the moments as they are kept, rounded to their format.
    mean = (mean + rate1 * (grad - mean)).to(exp_avg_ptr.dtype.element_ty)
    square = (square * beta2 + rate2 * grad * grad).to(exp_avg_sq_ptr.dtype.element_ty)
    tl.store(exp_avg_ptr + at, mean, mask=inside)
    tl.store(exp_avg_sq_ptr + at, square, mask=inside)
    root = tl.sqrt(square.to(tl.float32)) / correction + eps
    param = param * keep - step_size * (mean.to(tl.float32) / root)
    tl.store(param_ptr + at, param.to(param_ptr.dtype.element_ty), mask=inside)
