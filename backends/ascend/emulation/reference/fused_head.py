"""The output head fused with cross entropy: row maxima and sums first, then the loss, then gradients.

Shapes: N tokens, D hidden, V rows of the weight, which may be one rank's part of the vocabulary.
Source: the documentation of torch_npu 2.13.0; for the formulas CANN 8.5, aclnnFusedLinearOnlineMaxSum and
aclnnFusedCrossEntropyLossWithMaxSum.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from backends.ascend.emulation.reference.registry import NotEmulated, Rejected, cover_only, reference

_LEAST_VOCABULARY = 128  # of the gradient
_MAX_INNER = 65_534
_BITS = (128, 64, 32, 16, 8, 4, 2, 1)  # the first of eight tokens is the highest bit of their byte


@reference("npu::npu_fused_linear_online_max_sum")
def npu_fused_linear_online_max_sum(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    vocab_start_index: int,
    vocab_end_index: int,
    return_logits: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return row maxima, sums of exp(logit - maximum), and logit - maximum of the targets; which targets lie
    elsewhere, a bit each; the targets' columns; and on request the logits. The last index is included.
    """
    op = "npu_fused_linear_online_max_sum"
    _check_operands(op, input, weight)
    if not 0 <= vocab_start_index <= vocab_end_index < vocab_start_index + weight.shape[0]:
        raise Rejected(
            f"{op}: the vocabulary from {vocab_start_index} to {vocab_end_index}, both included, does not "
            f"fit a weight of {weight.shape[0]} rows"
        )
    logits = input.float() @ weight.float().T
    maximum = logits.amax(-1)
    shifted = logits - maximum[:, None]
    elsewhere = (target < vocab_start_index) | (target > vocab_end_index)
    columns = (target - vocab_start_index).masked_fill(elsewhere, 0)
    chosen = shifted.gather(1, columns.long()[:, None]).squeeze(1).masked_fill(elsewhere, 0.0)
    shown = logits.to(input.dtype) if return_logits else input.new_empty(0)
    return maximum, shifted.exp().sum(-1), chosen, _to_bits(elsewhere), columns, shown


@reference("npu::npu_fused_cross_entropy_loss_with_max_sum")
def npu_fused_cross_entropy_loss_with_max_sum(
    logits_max: Tensor,
    sum_exp_logits: Tensor,
    predicted_logits: Tensor,
    *,
    label_smoothing: float | None = 0.0,
    input: Tensor | None = None,
    weight: Tensor | None = None,
    vocab_parallel_logits: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return log(sum) - predicted, and the softmax if the logits are given."""
    op = "npu_fused_cross_entropy_loss_with_max_sum"
    cover_only(op, input=input, weight=weight)
    _no_smoothing(op, label_smoothing)
    if not logits_max.shape == sum_exp_logits.shape == predicted_logits.shape:
        raise Rejected(f"{op}: the three row statistics must have one shape")
    softmax = logits_max.new_empty(0)
    if vocab_parallel_logits is not None:
        softmax = (vocab_parallel_logits.float() - logits_max[:, None]).exp() / sum_exp_logits[:, None]
    return sum_exp_logits.log() - predicted_logits, softmax


@reference("npu::npu_fused_linear_cross_entropy_loss_with_max_sum_backward")
def npu_fused_linear_cross_entropy_loss_with_max_sum_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    target_mask: Tensor,
    masked_target: Tensor,
    label_smoothing: float = 0.0,
    logits_max: Tensor | None = None,
    sum_exp_logits: Tensor | None = None,
    softmax: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of input and weight, from the softmax or from the row statistics."""
    op = "npu_fused_linear_cross_entropy_loss_with_max_sum_backward"
    _check_operands(op, input, weight)
    _no_smoothing(op, label_smoothing)
    if weight.shape[0] < _LEAST_VOCABULARY or grad.dtype != torch.float32:
        raise Rejected(
            f"{op}: a weight of {weight.shape[0]} rows and a gradient in {grad.dtype}; it takes "
            f"{_LEAST_VOCABULARY} rows or more, and float32"
        )
    if softmax is None:
        if logits_max is None or sum_exp_logits is None:
            raise Rejected(f"{op}: give softmax, or logits_max and sum_exp_logits")
        logits = input.float() @ weight.float().T
        softmax = (logits - logits_max[:, None]).exp() / sum_exp_logits[:, None]
    here = ~_from_bits(target_mask, grad.shape[0])
    wanted = F.one_hot(masked_target.long(), weight.shape[0]) * here[:, None]
    d_logits = (softmax - wanted) * grad[:, None]
    return (d_logits @ weight.float()).to(input.dtype), (d_logits.T @ input.float()).to(weight.dtype)


def _check_operands(op: str, input: Tensor, weight: Tensor) -> None:
    if input.dtype not in (torch.float16, torch.bfloat16) or input.dtype != weight.dtype:
        raise Rejected(
            f"{op}: input {input.dtype} and weight {weight.dtype} must both be float16 or bfloat16"
        )
    if input.dim() != 2 or weight.dim() != 2 or input.shape[1] != weight.shape[1]:
        raise Rejected(f"{op}: input {tuple(input.shape)}, weight {tuple(weight.shape)}: (N, D) and (V, D)")
    if input.shape[1] > _MAX_INNER:
        raise Rejected(f"{op}: {input.shape[1]} inner numbers; it takes up to {_MAX_INNER}")


def _no_smoothing(op: str, label_smoothing: float | None) -> None:
    if label_smoothing:
        raise NotEmulated(f"{op}: label_smoothing is documented as not supported yet")


def _to_bits(flags: Tensor) -> Tensor:
    """Pack flags, eight a byte; what is left of the last byte is True."""
    padded = F.pad(flags.int(), (0, -flags.numel() % 8), value=1).view(-1, 8)
    return (padded * torch.tensor(_BITS, dtype=torch.int32, device=flags.device)).sum(1).to(torch.uint8)


def _from_bits(packed: Tensor, count: int) -> Tensor:
    bits = torch.tensor(_BITS, dtype=torch.int32, device=packed.device)
    return (packed.int()[:, None] & bits).bool().flatten()[:count]
