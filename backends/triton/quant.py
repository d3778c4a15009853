"""Matrices in few bits: packed codes of 2 to 8 bits, int8, and NF4.

Shapes: N rows, D in, O out, G groups a row, W words a row.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from backends.triton.launch import NAMESPACE, launch
from backends.triton.tuning import row_tile, tile
from portable.kernel.reference.precision import linear_dtype
from portable.kernel.reference.quant import NF4_CODE_BOOK, check_int8, check_nf4, check_packed


def packed_matmul(
    x_ND: Tensor, codes_OW: Tensor, scales_OG: Tensor, zeros_OG: Tensor, *, bits: int, group_size: int
) -> Tensor:
    """Compute ``packed_matmul`` of the reference: codes become numbers in one pass, the matmul is torch's.

    The numbers are made again in the backward pass instead of kept.
    """
    check_packed(x_ND, codes_OW, scales_OG, zeros_OG, bits, group_size)
    dtype = linear_dtype(x_ND)
    return _packed(x_ND.to(dtype), codes_OW, scales_OG.detach(), zeros_OG.detach(), bits, group_size)


@torch.library.custom_op(f"{NAMESPACE}::packed_matmul", mutates_args=())
def _packed(x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, bits: int, group_size: int) -> Tensor:
    return F.linear(x, _dequantized(x, codes, scales, zeros, bits, group_size))


@_packed.register_fake
def _(x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, bits: int, group_size: int) -> Tensor:
    return x.new_empty(x.shape[0], codes.shape[0])


@torch.library.custom_op(f"{NAMESPACE}::packed_matmul_backward", mutates_args=())
def _packed_backward(
    grad: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, bits: int, group_size: int
) -> Tensor:
    return grad @ _dequantized(grad, codes, scales, zeros, bits, group_size)


@_packed_backward.register_fake
def _(grad: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, bits: int, group_size: int) -> Tensor:
    return grad.new_empty(grad.shape[0], codes.shape[1] // bits * 32)


# Any: the context is torch's own
def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, codes, scales, zeros, *ctx.settings = inputs
    ctx.save_for_backward(codes, scales, zeros)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _packed_backward(grad, *ctx.saved_tensors, *ctx.settings), None, None, None, None, None


_packed.register_autograd(_gradients, setup_context=_keep)


def _dequantized(
    like: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, bits: int, group_size: int
) -> Tensor:
    """Return the weight (O, D) in the format of ``like``."""
    num_in = codes.shape[1] // bits * 32
    weight = torch.empty((codes.shape[0], num_in), dtype=like.dtype, device=like.device)
    config = tile("elementwise", like.device)
    launch(
        _dequantize_kernel,
        (triton.cdiv(weight.numel(), config.n),),
        weight,
        *(codes.contiguous(), scales.contiguous(), zeros.contiguous(), weight),
        *(weight.numel(), num_in, group_size),
        BITS=bits,
        BLOCK=config.n,
        **config.options,
    )
    return weight


@torch.no_grad()
def int8_matmul(x_ND: Tensor, weight_OD: Tensor, scale_O: Tensor) -> Tensor:
    """Compute ``int8_matmul`` of the reference: one kernel finds the codes of x, one multiplies."""
    check_int8(x_ND, weight_OD, scale_O)
    return _int8(x_ND, weight_OD, scale_O)


@torch.library.custom_op(f"{NAMESPACE}::int8_matmul", mutates_args=())
def _int8(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    (num_rows, num_in), num_out = x.shape, weight.shape[0]
    codes = torch.empty((num_rows, num_in), dtype=torch.int8, device=x.device)
    scale_x = torch.empty(num_rows, dtype=torch.float32, device=x.device)
    rows = row_tile(num_in, x.device)
    launch(
        _codes_kernel,
        (triton.cdiv(num_rows, rows.m),),
        x,
        *(x.contiguous(), codes, scale_x, num_rows, num_in),
        ROWS=rows.m,
        WIDTH=rows.n,
        **rows.options,
    )
    out = torch.empty((num_rows, num_out), dtype=x.dtype, device=x.device)
    config = tile("int8_matmul", x.device)
    launch(
        _int8_kernel,
        (triton.cdiv(num_rows, config.m), triton.cdiv(num_out, config.n)),
        x,
        *(codes, weight.contiguous(), scale_x, scale.contiguous(), out, num_rows, num_out, num_in),
        M=config.m,
        N=config.n,
        K=config.k,
        **config.options,
    )
    return out


@_int8.register_fake
def _(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


def nf4_dequantize(
    codes: Tensor, absmax: Tensor, *, shape: Sequence[int], block_size: int, dtype: torch.dtype
) -> Tensor:
    """Compute ``nf4_dequantize`` of the reference."""
    check_nf4(codes, absmax, shape, block_size)
    return _nf4(codes, absmax, list(shape), block_size, dtype)


@torch.library.custom_op(f"{NAMESPACE}::nf4_dequantize", mutates_args=())
def _nf4(codes: Tensor, absmax: Tensor, shape: list[int], block_size: int, dtype: torch.dtype) -> Tensor:
    out = torch.empty(shape, dtype=dtype, device=codes.device)
    book = torch.tensor(NF4_CODE_BOOK, dtype=torch.float32, device=codes.device)
    config = tile("elementwise", codes.device)
    size = math.prod(shape)
    launch(
        _nf4_kernel,
        (triton.cdiv(size, config.n),),
        codes,
        *(codes.contiguous(), absmax.contiguous(), book, out, size, block_size),
        BLOCK=config.n,
        **config.options,
    )
    return out


@_nf4.register_fake
def _(codes: Tensor, absmax: Tensor, shape: list[int], block_size: int, dtype: torch.dtype) -> Tensor:
    return codes.new_empty(shape, dtype=dtype)


# Any: the context is torch's own
def _keep_nf4(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    codes, absmax, _, ctx.block_size, _ = inputs
    ctx.save_for_backward(codes, absmax)


def _nf4_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """A block's absmax scales its values of the code book: its gradient is the sum of their products."""
    codes, absmax = ctx.saved_tensors
    grad = grad.flatten().float()
    unit = torch.ones_like(absmax, dtype=torch.float32)
    values = _nf4(codes, unit, list(grad.shape), ctx.block_size, torch.float32)
    products = F.pad(grad * values, (0, -grad.numel() % ctx.block_size))
    return None, products.view(-1, ctx.block_size).sum(-1).to(absmax.dtype), None, None, None


_nf4.register_autograd(_nf4_gradients, setup_context=_keep_nf4)


@triton.jit
def _dequantize_kernel(
    codes_ptr: tl.tensor,
    scales_ptr: tl.tensor,
    zeros_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    size: tl.tensor,
    num_in: int,
    group_size: int,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    bit = (at % 32) * BITS
    words = codes_ptr + at // 32 * BITS + bit // 32
    shift = (bit % 32).to(tl.uint32)
    low = tl.load(words, mask=inside, other=0).to(tl.uint32, bitcast=True) >> shift
    # A code may reach into the next word; the shift of those that do is never 0.
    split = shift + BITS > 32
    rest = tl.load(words + 1, mask=inside & split, other=0).to(tl.uint32, bitcast=True)
    code = (low | (rest << tl.where(split, 32 - shift, 0).to(tl.uint32))) & (2**BITS - 1)
    groups = at // num_in * (num_in // group_size) + at % num_in // group_size
    scale = tl.load(scales_ptr + groups, mask=inside, other=0.0).to(tl.float32)
    zero = tl.load(zeros_ptr + groups, mask=inside, other=0.0).to(tl.float32)
    weight = (code.to(tl.float32) - zero) * scale
    tl.store(weight_ptr + at, weight.to(weight_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _codes_kernel(
    x_ptr: tl.tensor,
    codes_ptr: tl.tensor,
    scale_ptr: tl.tensor,
    num_rows: int,
    size: int,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)
    inside = (rows < num_rows)[:, None] & (columns < size)[None, :]
    at = rows[:, None] * size + columns[None, :]
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    # Correctly rounded divisions: the codes are part of the meaning.
    scale = tl.div_rn(tl.max(tl.abs(x), axis=1), tl.full((ROWS,), 127.0, tl.float32))
    tl.store(scale_ptr + rows, scale, mask=rows < num_rows)
    divisor = tl.where(scale == 0.0, 1.0, scale)[:, None] + tl.zeros((ROWS, WIDTH), tl.float32)
    quotient = tl.minimum(tl.maximum(tl.div_rn(x, divisor), -127.0), 127.0)
    # In float32 the sum with 1.5 * 2^23 has no room for a fraction, and is rounded to the nearest even
    # integer.
    rounded = (quotient + 12582912.0) - 12582912.0
    tl.store(codes_ptr + at, rounded.to(tl.int8), mask=inside)


@triton.jit
def _int8_kernel(
    x_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    scale_x_ptr: tl.tensor,
    scale_ptr: tl.tensor,
    out_ptr: tl.tensor,
    num_rows: int,
    num_out: int,
    num_in: int,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
) -> None:
    rows = tl.program_id(0).to(tl.int64) * M + tl.arange(0, M)
    columns = tl.program_id(1).to(tl.int64) * N + tl.arange(0, N)
    in_rows, in_columns = rows < num_rows, columns < num_out
    sums = tl.zeros((M, N), tl.int32)
    for start in range(0, num_in, K):
        dims = start + tl.arange(0, K)
        in_dims = (dims < num_in)[None, :]
        x = tl.load(x_ptr + rows[:, None] * num_in + dims[None, :], mask=in_rows[:, None] & in_dims, other=0)
        weight_at = weight_ptr + columns[:, None] * num_in + dims[None, :]
        weight = tl.load(weight_at, mask=in_columns[:, None] & in_dims, other=0)
        sums = tl.dot(x, tl.trans(weight), acc=sums, out_dtype=tl.int32)
    scale_x = tl.load(scale_x_ptr + rows, mask=in_rows, other=0.0)
    scale = tl.load(scale_ptr + columns, mask=in_columns, other=0.0).to(tl.float32)
    y = sums.to(tl.float32) * scale_x[:, None] * scale[None, :]
    out_at = out_ptr + rows[:, None] * num_out + columns[None, :]
    tl.store(out_at, y.to(out_ptr.dtype.element_ty), mask=in_rows[:, None] & in_columns[None, :])


@triton.jit
def _nf4_kernel(
    codes_ptr: tl.tensor,
    absmax_ptr: tl.tensor,
    book_ptr: tl.tensor,
    out_ptr: tl.tensor,
    size: tl.tensor,
    block_size: int,
    BLOCK: tl.constexpr,
) -> None:
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    byte = tl.load(codes_ptr + at // 2, mask=inside, other=0).to(tl.int32)
    code = tl.where(at % 2 == 0, byte >> 4, byte & 15)
    scale = tl.load(absmax_ptr + at // block_size, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(book_ptr + code, mask=inside, other=0.0) * scale
    tl.store(out_ptr + at, value.to(out_ptr.dtype.element_ty), mask=inside)
