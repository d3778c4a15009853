"""Matrices in few bits, unpacked a chunk or a byte at a time. Shapes: N rows, D in, O out."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from portable.kernel.reference.precision import accumulation_dtype, linear_dtype
from portable.kernel.reference.quant import NF4_CODE_BOOK, WORD_BITS, check_nf4, check_packed, unpack

# Values of W that exist at a time: 4 MiB in float32.
CHUNK_VALUES = 2**20


def packed_matmul(
    x_ND: Tensor, codes_OW: Tensor, scales_OG: Tensor, zeros_OG: Tensor, *, bits: int, group_size: int
) -> Tensor:
    """Compute ``packed_matmul`` of the reference."""
    check_packed(x_ND, codes_OW, scales_OG, zeros_OG, bits, group_size)
    return _PackedMatmul.apply(
        x_ND.to(linear_dtype(x_ND)), codes_OW, scales_OG.detach(), zeros_OG.detach(), bits, group_size
    )


def nf4_dequantize(
    codes: Tensor, absmax: Tensor, *, shape: Sequence[int], block_size: int, dtype: torch.dtype
) -> Tensor:
    """Compute ``nf4_dequantize`` of the reference, looking up both values of a byte at once."""
    check_nf4(codes, absmax, shape, block_size)
    wide, count = accumulation_dtype(absmax), math.prod(shape)
    table = torch.tensor(NF4_CODE_BOOK, dtype=torch.float32, device=codes.device).to(wide)
    pairs = torch.stack((table.repeat_interleave(16), table.repeat(16)), dim=-1)
    values = F.pad(pairs.index_select(0, codes.int()).flatten()[:count], (0, -count % block_size))
    weight = values.view(-1, block_size) * absmax.to(wide)[:, None]
    return weight.flatten()[:count].to(dtype).reshape(tuple(shape))


class _PackedMatmul(torch.autograd.Function):
    """Unpacks some rows of W, multiplies by them and forgets them, forward and backward."""

    # Any: the context is torch's own
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, bits: int, group_size: int
    ) -> Tensor:
        ctx.bits, ctx.group_size = bits, group_size
        ctx.save_for_backward(codes, scales, zeros)
        out = x.new_empty(len(x), len(codes))
        for rows in _chunks(len(codes), x.shape[1]):
            weight = _weight(codes[rows], scales[rows], zeros[rows], bits, group_size, x)
            out[:, rows] = x @ weight.T
        return out

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None, None, None, None, None]:
        (grad,) = grad_outputs
        codes, scales, zeros = ctx.saved_tensors
        num_in = scales.shape[1] * ctx.group_size
        # Chunks add up in float32: their number must not decide how much is rounded away.
        grad_x = grad.new_zeros(len(grad), num_in, dtype=accumulation_dtype(grad))
        for rows in _chunks(len(codes), num_in):
            weight = _weight(codes[rows], scales[rows], zeros[rows], ctx.bits, ctx.group_size, grad)
            grad_x += grad[:, rows] @ weight
        return grad_x.to(grad.dtype), None, None, None, None, None


def _weight(codes: Tensor, scales: Tensor, zeros: Tensor, bits: int, group_size: int, like: Tensor) -> Tensor:
    dtype = accumulation_dtype(like)
    weight = _unpack(codes, bits).to(dtype).unflatten(-1, (-1, group_size))
    weight.sub_(zeros.to(dtype)[..., None]).mul_(scales.to(dtype)[..., None])
    return weight.flatten(1).to(like.dtype)


def _unpack(codes: Tensor, bits: int) -> Tensor:
    """Unpack in one operation where no code lies across two words."""
    if WORD_BITS % bits:
        return unpack(codes, bits)
    shifts = torch.arange(0, WORD_BITS, bits, dtype=torch.int32, device=codes.device)
    return ((codes[..., None] >> shifts) & (2**bits - 1)).flatten(1)


def _chunks(num_out: int, num_in: int) -> Iterator[slice]:
    step = max(1, CHUNK_VALUES // max(1, num_in))
    return (slice(start, start + step) for start in range(0, num_out, step))
