"""Dropout with a stored mask: one bit an element, or one byte.

Only the operators that make a mask and those that read it know its form; its size is that of torch_npu's
meta kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backends.ascend.emulation.reference.registry import Rejected, reference

_ALIGNED_BITS = 128


def _scale(p: float) -> float:
    return 0.0 if p >= 1 else 1 / (1 - p)


def _draw(input: Tensor, p: float) -> Tensor:
    if not 0 <= p <= 1:
        raise Rejected(f"dropout probability {p} is not between 0 and 1")
    return torch.rand(input.shape, device=input.device) >= p


def pack(keep: Tensor) -> Tensor:
    """Turn booleans into bits, least significant first, padded to a multiple of 128."""
    flat = keep.flatten().to(torch.uint8)
    size = -(-flat.numel() // _ALIGNED_BITS) * _ALIGNED_BITS
    padded = torch.cat((flat, flat.new_zeros(size - flat.numel()))).view(-1, 8)
    weights = 2 ** torch.arange(8, device=keep.device)
    return (padded * weights).sum(1).to(torch.uint8)


def unpack(mask: Tensor, like: Tensor) -> Tensor:
    """Turn the first bits of ``mask`` into booleans of the shape of ``like``."""
    shifts = torch.arange(8, device=mask.device, dtype=torch.uint8)
    bits = (mask.unsqueeze(1) >> shifts) & 1
    if bits.numel() < like.numel():
        raise Rejected(f"a dropout mask of {bits.numel()} bits is too small for {like.numel()} elements")
    return bits.flatten()[: like.numel()].view(like.shape).bool()


@reference("npu::_npu_dropout")
def _npu_dropout(input: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Return the scaled survivors and the mask as bits."""
    keep = _draw(input, p)
    return input * keep * _scale(p), pack(keep)


@reference("npu::npu_dropout_backward")
def npu_dropout_backward(grad_output: Tensor, mask: Tensor, p: float) -> Tensor:
    """Return the gradient of input."""
    return grad_output * unpack(mask, grad_output) * _scale(p)


@reference("npu::npu_dropout_do_mask")
def npu_dropout_do_mask(input: Tensor, mask: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Apply a mask of bits; returns it too."""
    return input * unpack(mask, input) * _scale(p), mask.clone()


@reference("npu::_dropout_with_byte_mask")
def _dropout_with_byte_mask(input: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Return the scaled survivors and the mask as bytes."""
    keep = _draw(input, p)
    return input * keep * _scale(p), keep.to(torch.uint8)


@reference("npu::_dropout_with_byte_mask_backward")
def _dropout_with_byte_mask_backward(grad_output: Tensor, mask: Tensor, p: float) -> Tensor:
    """Return the gradient of input."""
    return grad_output * mask * _scale(p)


@reference("npu::dropout_with_byte_mask")
def dropout_with_byte_mask(input: Tensor, p: float, train: bool) -> Tensor:
    """Drop in training, pass through otherwise."""
    return _dropout_with_byte_mask(input, p)[0] if train else input.clone()
