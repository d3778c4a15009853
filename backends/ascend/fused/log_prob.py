"""The output head and the log-softmax in one, by the NPU's fused operators: the logits are never stored.

Shapes: N tokens, D hidden, V vocabulary.
Limits: 16-bit operands (others go to the reference), V of at least 128, D to 65534; CANN 9.0.0.
Source: torch_npu 2.13.0, documentation of ``npu_fused_linear_online_max_sum``,
``npu_fused_cross_entropy_loss_with_max_sum`` and their backward; CANN 8.5, aclnnFusedLinearOnlineMaxSum: the
last index of the vocabulary is included.
"""

from __future__ import annotations

from typing import Any

import torch
import torch_npu
from torch import Tensor
from torch.autograd.function import once_differentiable

from portable.kernel.reference import log_prob as reference
from portable.kernel.reference.precision import matmul_operands

_FORMATS = (torch.float16, torch.bfloat16)


def token_log_probs(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """Compute ``token_log_probs`` of the reference."""
    reference.check_inputs(hidden_ND, weight_VD, targets_N, temperature)
    hidden, weight = matmul_operands(hidden_ND, weight_VD)
    if hidden.dtype not in _FORMATS or weight.numel() == 0:
        return reference.token_log_probs(hidden_ND, weight_VD, targets_N, temperature=temperature)
    return reference.without_ignored(_compute, hidden, weight, targets_N, temperature)


def _compute(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, temperature: float) -> Tensor:
    if hidden_ND.shape[0] == 0:
        return reference.token_log_probs(hidden_ND, weight_VD, targets_N)
    hidden_ND = hidden_ND if temperature == 1.0 else hidden_ND / temperature
    return _TokenLogProbs.apply(hidden_ND.contiguous(), weight_VD.contiguous(), targets_N.contiguous())


class _TokenLogProbs(torch.autograd.Function):
    """Row maxima and sums are kept, and the logits are computed again for the gradient."""

    # Any: the context is torch's own
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        maxima, sums, chosen, elsewhere, columns, _ = torch_npu.npu_fused_linear_online_max_sum(
            hidden, weight, targets, 0, weight.shape[0] - 1, return_logits=False
        )
        losses, _ = torch_npu.npu_fused_cross_entropy_loss_with_max_sum(maxima, sums, chosen)
        ctx.save_for_backward(hidden, weight, elsewhere, columns, maxima, sums)
        return -losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden, weight, elsewhere, columns, maxima, sums = ctx.saved_tensors
        d_hidden, d_weight = torch_npu.npu_fused_linear_cross_entropy_loss_with_max_sum_backward(
            -grad, hidden, weight, elsewhere, columns, logits_max=maxima, sum_exp_logits=sums
        )
        return d_hidden, d_weight, None
