"""Matrices in few bits: int8, 2 to 8 bits in groups, and NF4.

Shapes: N rows, D in, O out, G groups a row, W words a row.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from portable.core.errors import ConfigError, ShapeError
from portable.kernel.reference.precision import accumulation_dtype, linear_dtype, without_autocast

WORD_BITS = 32
INT8_MAX = 127

# Sixteen values of a standard normal that hold equal shares of it, 0 among them, scaled to -1 .. 1.
# Source: Dettmers et al. 2023, arXiv:2305.14314, appendix E.
NF4_CODE_BOOK = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


@torch.no_grad()
def int8_matmul(x_ND: Tensor, weight_OD: Tensor, scale_O: Tensor) -> Tensor:
    """Return x W^T with W = weight * scale, both factors in int8.

    Every row of x is quantised on the way: scale_x = max|x| / 127, codes = round(x / scale_x), to even. Then
    y[n, o] = sum over d of codes[n, d] * weight[o, d], in integers, times scale_x[n] * scale[o]. Not
    differentiable.

    Shapes: weight_OD (O, D) int8, scale_O (O,); returns (N, O).
    Dtype: that of ``x_ND``. The codes are found in float32, whatever the format of x: they are part of the
    meaning.
    Raises: ShapeError if the inputs do not fit.
    Source: Dettmers et al. 2022, arXiv:2208.07339, section 2.1, vector-wise and without the outliers' part.
    """
    check_int8(x_ND, weight_OD, scale_O)
    dtype = accumulation_dtype(x_ND)
    codes, scale_x = _int8_codes(x_ND.float())
    sums = _exact_matmul(codes, weight_OD)
    return (sums.to(dtype) * scale_x.to(dtype)[:, None] * scale_O.to(dtype)).to(x_ND.dtype)


def quantize_int8(weight_OD: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 codes (O, D) and float32 scales (O,), one for each row: max|w| / 127."""
    codes, scale = _int8_codes(weight_OD.float())
    return codes.to(torch.int8), scale


def _int8_codes(x: Tensor) -> tuple[Tensor, Tensor]:
    if not x.shape[1]:
        return x, x.new_zeros(x.shape[0])
    scale = x.abs().amax(-1) / INT8_MAX
    # A row of zeros, or of numbers too small for a scale, has codes 0.
    codes = (x / scale.masked_fill(scale == 0, 1.0)[:, None]).round().clamp(-INT8_MAX, INT8_MAX)
    return codes, scale


def _exact_matmul(codes_ND: Tensor, weight_OD: Tensor) -> Tensor:
    """Return the int32 sums of products, by float32 matmuls whose sums stay below 2^24 and so are exact.

    Integer matmuls exist on too few devices to define anything by them.
    """
    width = 1024  # 1024 * 127 * 128 < 2^24
    sums = codes_ND.new_zeros(len(codes_ND), len(weight_OD), dtype=torch.int32)
    with without_autocast(codes_ND):
        for codes, weight in zip(codes_ND.split(width, 1), weight_OD.float().split(width, 1), strict=True):
            sums += (codes @ weight.T).to(torch.int32)
    return sums


def packed_matmul(
    x_ND: Tensor, codes_OW: Tensor, scales_OG: Tensor, zeros_OG: Tensor, *, bits: int, group_size: int
) -> Tensor:
    """Return x W^T with W = (code - zero) * scale, scale and zero being those of the code's group.

    Codes are packed as by ``pack``; a group is ``group_size`` neighbours of a row. Differentiable in
    ``x_ND``; scales and zeros are constants.

    Shapes: codes_OW (O, D / 32 * bits) int32, scales_OG and zeros_OG (O, D / group_size); returns (N, O).
    Dtype: that of ``x_ND``, or autocast's, to which W is rounded from float32 for the matmul.
    Raises: ConfigError for bits outside 2 to 8, ShapeError if the inputs do not fit.
    Source: Frantar et al. 2022, arXiv:2210.17323, section 4 (groups of one scale and zero).
    """
    check_packed(x_ND, codes_OW, scales_OG, zeros_OG, bits, group_size)
    dtype = linear_dtype(x_ND)
    weight = dequantize_packed(codes_OW, scales_OG, zeros_OG, bits, group_size, accumulation_dtype(x_ND))
    return F.linear(x_ND.to(dtype), weight.to(dtype))


def quantize_packed(weight_OD: Tensor, bits: int, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return packed codes (O, W), scales (O, G) and zeros (O, G) in float32.

    A group's smallest value has code 0, its largest 2^bits - 1; the zero is a real number, -smallest / scale.
    Raises: ConfigError for bits outside 2 to 8, ShapeError unless 32 and ``group_size`` divide D.
    """
    _check_packing(weight_OD.shape[-1], bits, group_size)
    groups_OGS = weight_OD.float().unflatten(-1, (-1, group_size))
    low_OG, high_OG = groups_OGS.amin(-1), groups_OGS.amax(-1)
    scales_OG = (high_OG - low_OG) / (2**bits - 1)
    scales_OG = scales_OG.masked_fill(scales_OG == 0, 1.0)  # a constant group: all codes 0
    codes = ((groups_OGS - low_OG[..., None]) / scales_OG[..., None]).round().clamp(0, 2**bits - 1)
    return pack(codes.flatten(1).to(torch.int32), bits), scales_OG, -low_OG / scales_OG


def dequantize_packed(
    codes_OW: Tensor, scales_OG: Tensor, zeros_OG: Tensor, bits: int, group_size: int, dtype: torch.dtype
) -> Tensor:
    """Return (code - zero) * scale, (O, D), computed in ``dtype``, without gradients."""
    codes_OGS = unpack(codes_OW, bits).to(dtype).unflatten(-1, (scales_OG.shape[1], group_size))
    scales, zeros = scales_OG.detach().to(dtype), zeros_OG.detach().to(dtype)
    return ((codes_OGS - zeros[..., None]) * scales[..., None]).flatten(1)


def pack(codes_OD: Tensor, bits: int) -> Tensor:
    """Pack integers of 0 to 2^bits - 1 into int32 words, (O, D / 32 * bits).

    32 neighbours take ``bits`` words: value i is bits i * bits .. (i + 1) * bits - 1 of their stream, and bit
    b of the stream is bit b % 32 of word b // 32, bit 0 being the one of least weight.
    Raises: ConfigError for bits outside 2 to 8, ShapeError unless 32 divides D.
    """
    _check_packing(codes_OD.shape[-1], bits, WORD_BITS)
    codes = codes_OD.to(torch.int64).unflatten(-1, (-1, WORD_BITS))
    words = codes.new_zeros(*codes.shape[:-1], bits)
    for value in range(WORD_BITS):
        word, shift = divmod(value * bits, WORD_BITS)
        shifted = codes[..., value] << shift
        words[..., word] |= shifted & 0xFFFFFFFF
        if shift + bits > WORD_BITS:
            words[..., word + 1] |= shifted >> WORD_BITS
    return (words - ((words >> 31) << 32)).to(torch.int32).flatten(-2)  # the highest bit is the sign


def unpack(codes_OW: Tensor, bits: int) -> Tensor:
    """Return the integers that ``pack`` packed, (O, D) int32."""
    words = codes_OW.unflatten(-1, (-1, bits))
    values: list[Tensor] = []
    for value in range(WORD_BITS):
        word, shift = divmod(value * bits, WORD_BITS)
        inside = min(bits, WORD_BITS - shift)
        # The mask also drops the sign bits that shifting a negative word brings in.
        number = (words[..., word] >> shift) & (2**inside - 1)
        if inside < bits:
            number = number | ((words[..., word + 1] & (2 ** (bits - inside) - 1)) << inside)
        values.append(number)
    return torch.stack(values, dim=-1).flatten(-2)


def nf4_dequantize(
    codes: Tensor, absmax: Tensor, *, shape: Sequence[int], block_size: int, dtype: torch.dtype
) -> Tensor:
    """Return the weight whose values, in row order, are code book[code] * absmax[block].

    A byte of ``codes`` holds two values, the first in its high four bits; an odd last value leaves the low
    four unused. A block is ``block_size`` values.

    Shapes: codes (ceil(n / 2),) uint8 and absmax (ceil(n / block_size),) for n values; returns ``shape``.
    Dtype: ``dtype``, rounded once from products in float32.
    Raises: ShapeError if codes or absmax are not as many as ``shape`` needs, ConfigError for a block size
    below 1.
    Source: Dettmers et al. 2023, arXiv:2305.14314, eq. 6 without the second quantisation, of absmax.
    """
    check_nf4(codes, absmax, shape, block_size)
    wide = accumulation_dtype(absmax)
    nibbles = torch.stack((codes >> 4, codes & 15), dim=-1).flatten()[: math.prod(shape)]
    values = torch.tensor(NF4_CODE_BOOK, dtype=torch.float32, device=codes.device).to(wide)[nibbles.long()]
    blocks = torch.arange(len(values), device=codes.device) // block_size
    return (values * absmax.to(wide)[blocks]).to(dtype).reshape(tuple(shape))


def quantize_nf4(weight: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Return what ``nf4_dequantize`` takes: the nearest code of each value, and max|w| of each block.

    Raises: ConfigError for a block size below 1.
    """
    _check_block_size(block_size)
    flat = weight.float().flatten()
    blocks = F.pad(flat, (0, -len(flat) % block_size)).view(-1, block_size)
    absmax = blocks.abs().amax(-1)
    table = torch.tensor(NF4_CODE_BOOK, dtype=torch.float32, device=weight.device)
    scaled = blocks / absmax.masked_fill(absmax == 0, 1.0)[:, None]
    codes = torch.bucketize(scaled.flatten()[: len(flat)], (table[1:] + table[:-1]) / 2).to(torch.uint8)
    high, low = F.pad(codes, (0, len(codes) % 2)).view(-1, 2).unbind(-1)
    return (high << 4) | low, absmax


def check_int8(x_ND: Tensor, weight_OD: Tensor, scale_O: Tensor) -> None:
    """Raise ShapeError unless x, weight and scale fit and the weight is int8."""
    fits = x_ND.ndim == 2 and x_ND.shape[1:] == weight_OD.shape[1:] and scale_O.shape == weight_OD.shape[:1]
    if not fits or weight_OD.dtype != torch.int8:
        raise ShapeError(
            f"int8_matmul: x {tuple(x_ND.shape)}, weight {tuple(weight_OD.shape)} {weight_OD.dtype} and "
            f"scale {tuple(scale_O.shape)} must be (N, D), (O, D) int8 and (O,)"
        )


def check_packed(
    x_ND: Tensor, codes_OW: Tensor, scales_OG: Tensor, zeros_OG: Tensor, bits: int, group_size: int
) -> None:
    """Raise unless the codes, scales and zeros are those of a matrix that x can be multiplied by."""
    _check_packing(x_ND.shape[-1], bits, group_size)
    num_out, num_in = codes_OW.shape[0], x_ND.shape[-1]
    groups = (num_out, num_in // group_size)
    words = (num_out, num_in // WORD_BITS * bits)
    if x_ND.ndim != 2 or (codes_OW.shape, scales_OG.shape, zeros_OG.shape) != (words, groups, groups):
        raise ShapeError(
            f"packed_matmul: x {tuple(x_ND.shape)}, codes {tuple(codes_OW.shape)}, scales "
            f"{tuple(scales_OG.shape)}, zeros {tuple(zeros_OG.shape)}; with bits={bits} and "
            f"group_size={group_size} the last three must be {words}, {groups}, {groups}"
        )


def check_nf4(codes: Tensor, absmax: Tensor, shape: Sequence[int], block_size: int) -> None:
    """Raise unless there are as many codes and maxima as ``shape`` needs."""
    _check_block_size(block_size)
    count = math.prod(shape)
    wanted = ((-(-count // 2),), (-(-count // block_size),))
    if (codes.shape, absmax.shape) != wanted:
        raise ShapeError(
            f"nf4_dequantize: codes {tuple(codes.shape)} and absmax {tuple(absmax.shape)}; a weight of "
            f"{tuple(shape)} in blocks of {block_size} needs {wanted[0]} and {wanted[1]}"
        )


def _check_block_size(block_size: int) -> None:
    if block_size < 1:
        raise ConfigError(f"nf4: block_size={block_size}; a block has at least one value")


def _check_packing(num_in: int, bits: int, group_size: int) -> None:
    if not 2 <= bits <= 8:
        raise ConfigError(f"packed: bits={bits}; a code has 2 to 8")
    if group_size < 1 or num_in % WORD_BITS or num_in % group_size:
        raise ShapeError(f"packed: rows of {num_in} values; 32 and group_size={group_size} must divide them")
