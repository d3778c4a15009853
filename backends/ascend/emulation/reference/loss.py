"""Losses whose gradients torch_npu computes by operators of its own.

Reductions are numbers where torch's own operators have them: 0 none, 1 mean, 2 sum.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from backends.ascend.emulation.reference.registry import NotEmulated, Rejected, reference

_MEAN = 1
_MAX_ROWS = 200_000


def _share(grad_output: Tensor, num_elements: int, reduction: int) -> Tensor:
    """The gradient that each element of the loss gets."""
    return grad_output / num_elements if reduction == _MEAN else grad_output


@reference("npu::l1_loss_backward")
def l1_loss_backward(grad_output: Tensor, input: Tensor, target: Tensor, reduction: int) -> Tensor:
    """Return the gradient of input."""
    return torch.sign(input - target) * _share(grad_output, input.numel(), reduction)


@reference("npu::kl_div_backward")
def kl_div_backward(
    grad_output: Tensor, input: Tensor, target: Tensor, reduction: int = _MEAN, *, log_target: bool = False
) -> Tensor:
    """Return the gradient of input, which holds log probabilities."""
    weight = target.exp() if log_target else target.clamp(min=0)
    return (-weight * _share(grad_output, input.numel(), reduction)).expand_as(input)


@reference("npu::kl_div_target_backward")
def kl_div_target_backward(
    grad_output: Tensor, input: Tensor, target: Tensor, reduction: int = _MEAN, *, log_target: bool = False
) -> Tensor:
    """Return the gradient of target."""
    share = _share(grad_output, input.numel(), reduction)
    if log_target:
        return share * target.exp() * (target + 1 - input)
    return share * (target.log() + 1 - input)


@reference("npu::npu_binary_cross_entropy_with_logits_backward")
def npu_binary_cross_entropy_with_logits_backward(
    grad_output: Tensor,
    input: Tensor,
    target: Tensor,
    weight_opt: Tensor | None,
    pos_weight_opt: Tensor | None,
    reduction: int,
) -> Tensor:
    """Return the gradient of input, which holds logits."""
    probability = input.sigmoid()
    if pos_weight_opt is None:
        gradient = probability - target
    else:
        positive = pos_weight_opt * target
        gradient = (positive + 1 - target) * probability - positive
    if weight_opt is not None:
        gradient = gradient * weight_opt
    return gradient * _share(grad_output, input.numel(), reduction)


@reference("npu::npu_softmax_cross_entropy_with_logits")
def npu_softmax_cross_entropy_with_logits(input: Tensor, labels: Tensor) -> Tensor:
    """Return -sum(labels * log_softmax(input)) of each row; labels are probabilities."""
    return -(labels.float() * F.log_softmax(input.float(), -1)).sum(-1).to(input.dtype)


@reference("npu::npu_softmax_cross_entropy_with_logits_backward")
def npu_softmax_cross_entropy_with_logits_backward(grad: Tensor, input: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of input, for labels that sum to 1 in each row."""
    gradient = F.softmax(input.float(), -1) - labels.float()
    return (grad.float().unsqueeze(-1) * gradient).to(input.dtype)


@reference("npu::npu_cross_entropy_loss")
def npu_cross_entropy_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    lse_square_scale_for_zloss: float = 0.0,
    return_zloss: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return loss, log probabilities, and two empty tensors: the release does not compute the z loss."""
    if lse_square_scale_for_zloss or return_zloss:
        raise NotEmulated("npu_cross_entropy_loss: the z loss is documented as not supported yet")
    if input.dim() != 2 or target.dim() != 1:
        raise Rejected(f"npu_cross_entropy_loss: input {tuple(input.shape)} must be [N, C] and target [N]")
    if not 0 < input.shape[0] <= _MAX_ROWS:
        raise Rejected(f"npu_cross_entropy_loss: {input.shape[0]} rows; it takes 1 to {_MAX_ROWS}")
    # A negative ignore_index ignores nothing; then every target must be a class.
    outside = (target < 0) | (target >= input.shape[1])
    if bool((outside & (target != ignore_index) if ignore_index >= 0 else outside).any()):
        raise Rejected(f"npu_cross_entropy_loss: targets must lie in [0, {input.shape[1]})")
    loss = F.cross_entropy(
        input.float(),
        target,
        weight,
        reduction=reduction,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )
    shape = (input.shape[0],) if reduction == "none" else (1,)
    empty = input.new_empty(0)
    return (
        loss.reshape(shape).to(input.dtype),
        F.log_softmax(input.float(), 1).to(input.dtype),
        empty,
        empty.clone(),
    )


@reference("npu::npu_cross_entropy_loss_backward")
def npu_cross_entropy_loss_backward(
    grad_loss: Tensor,
    log_prob: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    grad_zloss: Tensor | None = None,
    lse_for_zloss: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    lse_square_scale_for_zloss: float = 0.0,
) -> Tensor:
    """Return the gradient of input."""
    num_classes = log_prob.shape[1]
    counted = target != ignore_index
    safe = target.masked_fill(~counted, 0)
    class_weights = log_prob.new_ones(num_classes, dtype=torch.float32) if weight is None else weight.float()
    row_weights = class_weights[safe] * counted
    gradient = grad_loss.float().expand(target.shape)
    if reduction == "mean":
        gradient = gradient / row_weights.sum()
    one_hot = F.one_hot(safe, num_classes).float()
    # Both parts of the smoothed target: the label's own weight, and every class by its weight.
    wanted = (1 - label_smoothing) * one_hot * row_weights[:, None]
    wanted = wanted + label_smoothing / num_classes * class_weights * counted[:, None]
    probability = log_prob.float().exp()
    d_input = (probability * wanted.sum(1, keepdim=True) - wanted) * gradient[:, None]
    return d_input.to(log_prob.dtype)
