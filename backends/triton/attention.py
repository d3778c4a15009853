"""Flash attention: dense and packed rows, grouped heads, window and sink, with the log-sum-exp.

Shapes: B rows, T new tokens a row, S keys a row, N query heads, K key-value heads, H head_dim; inside the
operators, (tokens, heads, H) for the tokens of all segments.
"""

import math
from typing import Any

import torch
import triton
from torch import Tensor

from backends.triton import attention_kernels as kernels
from backends.triton.launch import NAMESPACE, launch
from backends.triton.tuning import TileConfig, tile
from portable.kernel.reference.attention import check_attention, pair_segments

_NARROWEST = 16  # the least that a dim of a matrix product may have


def attention(
    q_BTNH: Tensor,
    k_BSKH: Tensor,
    v_BSKH: Tensor,
    *,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    causal: bool = True,
    align: str = "end",
    window: int | None = None,
    sink_N: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Compute ``attention`` of the reference."""
    out_BTNH, _ = attention_with_lse(
        q_BTNH,
        k_BSKH,
        v_BSKH,
        cu_seqlens=cu_seqlens,
        cu_seqlens_k=cu_seqlens_k,
        causal=causal,
        align=align,
        window=window,
        sink_N=sink_N,
        scale=scale,
    )
    return out_BTNH


def attention_with_lse(
    q_BTNH: Tensor,
    k_BSKH: Tensor,
    v_BSKH: Tensor,
    *,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    causal: bool = True,
    align: str = "end",
    window: int | None = None,
    sink_N: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute ``attention_with_lse`` of the reference."""
    check_attention(q_BTNH, k_BSKH, v_BSKH, align=align, window=window, sink_N=sink_N)
    segments = pair_segments(q_BTNH, k_BSKH, cu_seqlens, cu_seqlens_k)
    max_q, max_k = (max((pair[i] for pair in segments), default=0) for i in (0, 1))
    bounds_q = _bounds(cu_seqlens, q_BTNH)
    bounds_k = _bounds(cu_seqlens if cu_seqlens_k is None else cu_seqlens_k, k_BSKH)
    dtype = torch.promote_types(torch.promote_types(q_BTNH.dtype, k_BSKH.dtype), v_BSKH.dtype)
    out, lse, _, _ = _attend(
        *(x.to(dtype).flatten(0, 1) for x in (q_BTNH, k_BSKH, v_BSKH)),
        bounds_q,
        bounds_k,
        sink_N,
        max_q,
        max_k,
        causal,
        align == "end",
        window or 0,
        1 / math.sqrt(q_BTNH.shape[-1]) if scale is None else scale,
    )
    return out.to(q_BTNH.dtype).view(q_BTNH.shape), lse.view(q_BTNH.shape[:3])


def _bounds(cu_seqlens: Tensor | None, x: Tensor) -> Tensor:
    """Return the segments' bounds in int64; those of the rows, if there are no others."""
    if cu_seqlens is None:
        return torch.arange(x.shape[0] + 1, device=x.device) * x.shape[1]
    return cu_seqlens.to(device=x.device, dtype=torch.int64)


@torch.library.custom_op(f"{NAMESPACE}::attention", mutates_args=())
def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bounds_q: Tensor,
    bounds_k: Tensor,
    sink: Tensor | None,
    max_q: int,
    max_k: int,
    causal: bool,
    to_end: bool,
    window: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the outputs, and the log-sum-exps, peaks and totals, (tokens, N)."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse, peaks, totals = (torch.empty(q.shape[:2], dtype=torch.float32, device=q.device) for _ in range(3))
    config, padded = _tile("attention_forward", q)
    q, k, v = map(_dense_heads, (q, k, v))
    launch(
        kernels.forward_kernel,
        (triton.cdiv(max_q, config.m), bounds_q.numel() - 1, q.shape[1]),
        q,
        *(q, k, v, None if sink is None else sink.contiguous(), out, lse, peaks, totals),
        *(bounds_q, bounds_k),
        *_strides(q, k, v),
        *(q.shape[1], q.shape[2], scale, window),
        **_meanings(q, k, causal, to_end, window),
        **_sizes(config, padded),
    )
    return out, lse, peaks, totals


@_attend.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bounds_q: Tensor,
    bounds_k: Tensor,
    sink: Tensor | None,
    max_q: int,
    max_k: int,
    causal: bool,
    to_end: bool,
    window: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    lse, peaks, totals = (q.new_empty(q.shape[:2], dtype=torch.float32) for _ in range(3))
    return q.new_empty(q.shape), lse, peaks, totals


@torch.library.custom_op(f"{NAMESPACE}::attention_backward", mutates_args=())
def _attend_backward(
    grad: Tensor,
    grad_lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    peaks: Tensor,
    totals: Tensor,
    bounds_q: Tensor,
    bounds_k: Tensor,
    sink: Tensor | None,
    max_q: int,
    max_k: int,
    causal: bool,
    to_end: bool,
    window: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of q, k, v and the sink, the last empty without one."""
    grad_q, grad_k, grad_v = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    grad = grad.contiguous()
    delta = torch.empty_like(peaks)
    config, padded = _tile("attention_backward", q)
    q, k, v = map(_dense_heads, (q, k, v))
    segments = bounds_q.numel() - 1
    after = (
        bounds_q,
        bounds_k,
        *_strides(q, k, v),
        *(q.shape[1], q.shape[2], scale, window),
    )
    meta = _meanings(q, k, causal, to_end, window) | _sizes(config, padded)
    grid_q = (triton.cdiv(max_q, config.m), segments, q.shape[1])
    before = (grad, q, k, v, peaks, totals)
    launch(
        kernels.query_gradient_kernel,
        grid_q,
        q,
        *before,
        *(grad_lse.contiguous(), delta, grad_q),
        *after,
        **meta,
    )
    grid_k = (triton.cdiv(max_k, config.n), segments, k.shape[1])
    launch(kernels.key_gradient_kernel, grid_k, q, *before, delta, grad_k, grad_v, *after, **meta)
    if sink is None:
        return grad_q, grad_k, grad_v, q.new_empty(0)
    weights = torch.exp2(sink.float() * kernels.LOG2_E.value - peaks) / totals
    grad_sink = -(weights * delta).sum(0)
    return grad_q, grad_k, grad_v, grad_sink.to(sink.dtype)


@_attend_backward.register_fake
def _(
    grad: Tensor,
    grad_lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    peaks: Tensor,
    totals: Tensor,
    bounds_q: Tensor,
    bounds_k: Tensor,
    sink: Tensor | None,
    max_q: int,
    max_k: int,
    causal: bool,
    to_end: bool,
    window: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_q, grad_k, grad_v = (x.new_empty(x.shape) for x in (q, k, v))
    return grad_q, grad_k, grad_v, q.new_empty(0) if sink is None else sink.new_empty(sink.shape)


# Any: the context is torch's own
def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, k, v, bounds_q, bounds_k, sink, *ctx.settings = inputs
    _, _, peaks, totals = output
    ctx.save_for_backward(q, k, v, peaks, totals, bounds_q, bounds_k, sink)
    ctx.mark_non_differentiable(peaks, totals)


def _gradients(ctx: Any, grad: Tensor, grad_lse: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    *grads, grad_sink = _attend_backward(grad, grad_lse, *ctx.saved_tensors, *ctx.settings)
    has_sink = ctx.saved_tensors[-1] is not None
    return *grads, None, None, grad_sink if has_sink else None, *(None for _ in ctx.settings)


_attend.register_autograd(_gradients, setup_context=_keep)


def _tile(op: str, q: Tensor) -> tuple[TileConfig, int]:
    padded = max(_NARROWEST, triton.next_power_of_2(q.shape[-1]))
    bytes_per_element = q.element_size()
    variant = "32_bits" if bytes_per_element > 2 else "wide" if padded > 128 else ""
    config = tile(op, q.device, variant, bytes_per_element=bytes_per_element, shared_width=padded)
    return config, padded


def _dense_heads(x: Tensor) -> Tensor:
    """Return ``x`` with every head's numbers side by side; tokens and heads may lie apart."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _strides(*tensors: Tensor) -> tuple[int, ...]:
    return tuple(stride for x in tensors for stride in x.stride()[:2])


def _meanings(q: Tensor, k: Tensor, causal: bool, to_end: bool, window: int) -> dict[str, Any]:
    """What is known when a kernel is compiled. Any: numbers and flags."""
    return {"GROUP": q.shape[1] // k.shape[1], "CAUSAL": causal, "TO_END": to_end, "WINDOW": window > 0}


def _sizes(config: TileConfig, padded: int) -> dict[str, int]:
    return {"M": config.m, "N": config.n, "H": padded, **config.options}
