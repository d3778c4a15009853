"""Products with weights of 2 to 8 bits, in C++. Shapes: N rows, D in, O out, W words, G groups."""

from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from backends.cpu.kernel.library import load_native, takes
from portable.kernel.reference import quant as reference
from portable.kernel.reference.precision import linear_dtype

_native = load_native()

# Up to here a weight is multiplied as it is unpacked; with more rows torch's matmul is worth the tile.
MAX_FUSED_ROWS = 8
# Unpacked weights alive at a time: 4 MiB in float32 stay in the shared cache.
TILE_VALUES = 2**20


def packed_matmul(
    x_ND: Tensor, codes_OW: Tensor, scales_OG: Tensor, zeros_OG: Tensor, *, bits: int, group_size: int
) -> Tensor:
    """Compute ``packed_matmul`` of the reference with at most a tile of the weight unpacked at a time."""
    reference.check_packed(x_ND, codes_OW, scales_OG, zeros_OG, bits, group_size)
    dtype = linear_dtype(x_ND)
    if not takes(x_ND, scales_OG, zeros_OG) or torch.float64 in (dtype, scales_OG.dtype, zeros_OG.dtype):
        return reference.packed_matmul(x_ND, codes_OW, scales_OG, zeros_OG, bits=bits, group_size=group_size)
    scales, zeros = (x.detach().float().contiguous() for x in (scales_OG, zeros_OG))
    return _PackedMatmul.apply(x_ND.to(dtype), codes_OW.contiguous(), scales, zeros, bits, group_size)


class _PackedMatmul(torch.autograd.Function):
    """Keeps the packed weight; unpacks it again, tile by tile, for the gradient of x."""

    # Any: the context is torch's own
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, bits: int, group_size: int
    ) -> Tensor:
        ctx.save_for_backward(codes, scales, zeros)
        ctx.packing = bits, group_size
        if x.shape[0] <= MAX_FUSED_ROWS:
            rows = x.float().contiguous()
            return _native.packed_matmul(rows, codes, scales, zeros, bits, group_size).to(x.dtype)
        out = x.new_empty(x.shape[0], codes.shape[0])
        for tile, weight in _tiles(codes, scales, zeros, x, bits, group_size):
            out[:, tile] = x @ weight.T
        return out

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grads
        codes, scales, zeros = ctx.saved_tensors
        total: Tensor | None = None
        for tile, weight in _tiles(codes, scales, zeros, grad, *ctx.packing):
            part = (grad[:, tile] @ weight).float()  # tiles add up in float32
            total = part if total is None else total.add_(part)
        if total is None:
            total = grad.new_zeros(grad.shape[0], codes.shape[1] // ctx.packing[0] * 32)
        return total.to(grad.dtype), None, None, None, None, None


def _tiles(
    codes: Tensor, scales: Tensor, zeros: Tensor, like: Tensor, bits: int, group_size: int
) -> Generator[tuple[slice, Tensor]]:
    size = codes.shape[1] // bits * 32
    step = max(1, TILE_VALUES // size)
    for start in range(0, codes.shape[0], step):
        tile = slice(start, start + step)
        yield tile, _native.packed_dequantize(codes[tile], scales[tile], zeros[tile], like, bits, group_size)
