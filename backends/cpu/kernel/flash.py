"""Torch's fused attention of the CPU with its log-sum-exp, differentiable in both results.

Shapes: B rows, N query heads, K key-value heads, T queries, S keys, H head_dim; heads come before tokens.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


def flash_with_lse(
    q_BNTH: Tensor,
    k_BKSH: Tensor,
    v_BKSH: Tensor,
    visible: Tensor | None,
    *,
    is_causal: bool,
    scale: float | None,
) -> tuple[Tensor, Tensor]:
    """Return the output (B, N, T, H) and the logarithm of the softmax's denominator (B, N, T), float32.

    ``visible`` broadcasts to (B, N, T, S); every query must see something. ``is_causal`` counts from the
    first query and the first key.
    """
    scale = q_BNTH.shape[-1] ** -0.5 if scale is None else scale
    group = q_BNTH.shape[1] // k_BKSH.shape[1]
    k, v = (x.repeat_interleave(group, 1) if group > 1 else x for x in (k_BKSH, v_BKSH))
    bias: Tensor | None = None
    if visible is not None:
        bias = torch.zeros_like(visible, dtype=q_BNTH.dtype).masked_fill_(~visible, -torch.inf)
        bias = bias.expand(q_BNTH.shape[0], -1, -1, -1)
    if torch.is_grad_enabled() and (q_BNTH.requires_grad or k.requires_grad or v.requires_grad):
        return _Flash.apply(q_BNTH, k, v, bias, is_causal, scale)
    return _forward(q_BNTH, k, v, 0.0, is_causal, attn_mask=bias, scale=scale)


class _Flash(torch.autograd.Function):
    """The kernel's backward pass knows no gradient of lse. A dim more teaches it.

    With P the weights, dO and dl the gradients of output and lse, the gradient of the logits is
    P (dO v^T - rowsum(dO O) + dl). If v gets a dim of ones, dO one of dl and O one of zeros, the first term
    gains dl, the second nothing. The kernel wants q and k as wide: theirs are zeros.
    """

    # Any: the context is torch's own
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, is_causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        out, lse = _forward(q, k, v, 0.0, is_causal, attn_mask=bias, scale=scale)
        ctx.save_for_backward(q, k, v, out, lse, bias)
        ctx.is_causal, ctx.scale = is_causal, scale
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        q, k, v, out, lse, bias = ctx.saved_tensors
        grad, grad_lse = grads
        if grad is None and grad_lse is None:
            return (None,) * 6
        head_dim = q.shape[-1]
        grad = torch.zeros_like(out) if grad is None else grad
        if grad_lse is not None:
            grad = torch.cat((grad, grad_lse.to(grad.dtype).unsqueeze(-1)), -1)
            q, k, out = (F.pad(x, (0, 1)) for x in (q, k, out))
            v = F.pad(v, (0, 1), value=1.0)
        dq, dk, dv = _backward(grad, q, k, v, out, lse, 0.0, ctx.is_causal, attn_mask=bias, scale=ctx.scale)
        return dq[..., :head_dim], dk[..., :head_dim], dv[..., :head_dim], None, None, None
