"""Fused optimiser steps. They write into the tensors given as ``out``.

Source: Kingma and Ba 2015, arXiv:1412.6980; Loshchilov and Hutter 2019, arXiv:1711.05101; torch_npu 2.13.0's
documentation: the powers given are those of the step before, beta^(t-1).
"""

from __future__ import annotations

from torch import Tensor

from backends.ascend.emulation.reference.registry import Rejected, cover_only, reference


@reference("npu::npu_apply_adam_w.out")
def npu_apply_adam_w_out(
    beta1_power: float,
    beta2_power: float,
    lr: float,
    weight_decay: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    grad: Tensor,
    max_grad_norm: Tensor | None,
    amsgrad: bool | None,
    maximize: bool | None,
    *,
    out: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of AdamW on out = (var, m, v), in float32."""
    cover_only("npu_apply_adam_w", amsgrad=amsgrad)
    var, m, v = out
    if any(x.shape != grad.shape or x.dtype != grad.dtype for x in out):
        raise Rejected("npu_apply_adam_w: var, m, v and grad must have one shape and dtype")
    gradient = -grad.float() if maximize else grad.float()
    m.copy_(m.float() * beta1 + gradient * (1 - beta1))
    v.copy_(v.float() * beta2 + gradient.square() * (1 - beta2))
    mean = m.float() / (1 - beta1_power * beta1)
    square = v.float() / (1 - beta2_power * beta2)
    decayed = var.float() * (1 - lr * weight_decay)
    var.copy_(decayed - lr * mean / (square.sqrt() + epsilon))
    return var, m, v


@reference("npu::npu_apply_adam.out")
def npu_apply_adam_out(
    beta1_power: float,
    beta2_power: float,
    lr: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    grad: Tensor,
    use_locking: bool | None,
    use_nesterov: bool | None,
    *,
    out: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of Adam on out = (var, m, v); here the powers are those of this step, beta^t."""
    cover_only("npu_apply_adam", use_nesterov=use_nesterov)
    var, m, v = out
    gradient = grad.float()
    m.copy_(m.float() * beta1 + gradient * (1 - beta1))
    v.copy_(v.float() * beta2 + gradient.square() * (1 - beta2))
    rate = lr * (1 - beta2_power) ** 0.5 / (1 - beta1_power)
    var.copy_(var.float() - rate * m.float() / (v.float().sqrt() + epsilon))
    return var, m, v
