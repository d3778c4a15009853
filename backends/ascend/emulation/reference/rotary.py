"""Rotary position embedding.

Shapes: input of rank 4 with D last; r1 (cosines) and r2 (sines) broadcast to it.
Source: Su et al. 2021, arXiv:2104.09864; torch_npu 2.13.0's documentation of npu_rotary_mul.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backends.ascend.emulation.reference.registry import NotEmulated, Rejected, reference


def rotate(x: Tensor, mode: str) -> Tensor:
    """Turn each pair (a, b) into (-b, a); pairs are the two halves or neighbours."""
    if mode == "half":
        first, second = x.chunk(2, -1)
        return torch.cat((-second, first), -1)
    if mode == "interleave":
        return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
    raise Rejected(f"rotary_mode={mode}; use half or interleave")


@reference("npu::npu_rotary_mul")
def npu_rotary_mul(
    input: Tensor, r1: Tensor, r2: Tensor, rotary_mode: str = "half", rotate: Tensor | None = None
) -> Tensor:
    """Return input * r1 + rotated(input) * r2; a matrix ``rotate`` replaces the rotation."""
    _check("npu_rotary_mul", input, r1, r2)
    if rotate is None and rotary_mode == "interleave":
        _check_shared_table(input, r1)
    x = input.float()
    turned = _rotate(x, rotary_mode) if rotate is None else x @ rotate.float()
    return (x * r1.float() + turned * r2.float()).to(input.dtype)


@reference("npu::npu_rotary_mul_backward")
def npu_rotary_mul_backward(
    grad: Tensor, input: Tensor, r1: Tensor, r2: Tensor, rotary_mode: str = "half"
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of input, r1, r2."""
    _check("npu_rotary_mul_backward", input, r1, r2)
    g, x = grad.float(), input.float()
    # The rotation is skew-symmetric: its transpose is its negative.
    d_input = g * r1.float() - _rotate(g * r2.float(), rotary_mode)
    d_r1 = (g * x).sum_to_size(r1.shape)
    d_r2 = (g * _rotate(x, rotary_mode)).sum_to_size(r2.shape)
    return d_input.to(input.dtype), d_r1.to(r1.dtype), d_r2.to(r2.dtype)


@reference("npu::npu_apply_rotary_pos_emb")
def npu_apply_rotary_pos_emb(
    query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, layout: str = "BSND", rotary_mode: str = "half"
) -> tuple[Tensor, Tensor]:
    """Turn query and key in place and return them, as the inference kernel does."""
    op = "npu_apply_rotary_pos_emb"
    ranks = {"BSND": 4, "TND": 3}
    if layout not in ranks or rotary_mode != "half" or query.dim() != ranks[layout]:
        raise Rejected(f"{op}: these chips take layout BSND (rank 4) or TND (rank 3) and rotary_mode half")
    if query.shape[-1] not in (64, 128) or key.shape[-1] != query.shape[-1]:
        raise Rejected(f"{op}: head_dim {query.shape[-1]}; these chips take 64 and 128")
    if query.requires_grad or key.requires_grad:
        raise NotEmulated(f"{op}: the emulator covers inference; npu_rotary_mul has a gradient")
    for x in (query, key):
        x.copy_(npu_rotary_mul(x, cos, sin))
    return query, key


_rotate = rotate  # an argument of the operator has this name


def _check(op: str, x: Tensor, r1: Tensor, r2: Tensor) -> None:
    head_dim = x.shape[-1] if x.dim() else 0
    if head_dim % 2 or head_dim >= 896 or head_dim == 0:
        raise Rejected(f"{op}: head_dim {head_dim}; the kernel takes even sizes below 896")
    if not x.dtype == r1.dtype == r2.dtype:
        raise Rejected(
            f"{op}: input, r1 and r2 must have one number format; got {x.dtype}, {r1.dtype}, {r2.dtype}"
        )
    if r1.shape != r2.shape or r1.dim() != x.dim():
        raise Rejected(
            f"{op}: r1 {tuple(r1.shape)} and r2 {tuple(r2.shape)} must have one shape and the input's rank"
        )


def _check_shared_table(x: Tensor, r1: Tensor) -> None:
    """Raise Rejected unless the table has one row a token, for all rows and heads, and those are few."""
    spanned = [dim for dim in range(3) if r1.shape[dim] > 1]
    others = [x.shape[dim] for dim in range(3) if dim not in spanned]
    if len(spanned) > 1 or (len(others) == 2 and others[0] * others[1] >= 1000):
        raise Rejected(
            "npu_rotary_mul: rotary_mode=interleave takes one table for all rows and heads, 11SD, 1S1D or "
            f"S11D, and fewer than 1000 rows times heads; got r1 {tuple(r1.shape)} for {tuple(x.shape)}"
        )
