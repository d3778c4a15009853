import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from portable.core.errors import ConfigError, ShapeError
from portable.kernel.reference.quant import (
    NF4_CODE_BOOK,
    dequantize_packed,
    int8_matmul,
    nf4_dequantize,
    pack,
    packed_matmul,
    quantize_int8,
    quantize_nf4,
    quantize_packed,
    unpack,
)

BITS = range(2, 9)


def numbers(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def stream_of(words):
    """The words of a row as one large integer, its bit 0 the first of the stream."""
    return sum((word & 0xFFFFFFFF) << (32 * place) for place, word in enumerate(words))


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(BITS), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2**31))
def test_packing_is_a_little_endian_bit_stream_and_comes_back(bits, rows, blocks, seed):
    codes = torch.randint(
        0, 2**bits, (rows, 32 * blocks), generator=torch.Generator().manual_seed(seed), dtype=torch.int32
    )
    words = pack(codes, bits)
    assert words.shape == (rows, blocks * bits)
    assert words.dtype == torch.int32
    for row, packed in zip(codes.tolist(), words.tolist(), strict=True):
        assert stream_of(packed) == sum(code << (bits * place) for place, code in enumerate(row))
    assert torch.equal(unpack(words, bits), codes)


@pytest.mark.parametrize("bits", BITS)
def test_all_ones_fill_every_bit(bits):
    assert (pack(torch.full((1, 32), 2**bits - 1), bits) == -1).all()
    assert (unpack(torch.full((1, bits), -1, dtype=torch.int32), bits) == 2**bits - 1).all()


@pytest.mark.parametrize("bits", BITS)
def test_a_quantised_group_is_off_by_half_a_step_at_most(bits):
    weight = 3 + numbers(5, 96)
    codes, scales, zeros = quantize_packed(weight, bits, 48)
    error = (dequantize_packed(codes, scales, zeros, bits, 48, torch.float32) - weight).abs()
    assert (error.unflatten(1, (2, 48)) <= 0.501 * scales[..., None]).all()
    assert unpack(codes, bits).unflatten(1, (2, 48)).amax(-1).eq(2**bits - 1).all()


def test_a_constant_group_is_exact():
    weight = torch.tensor([0.0, 2.5, -7.0]).repeat_interleave(32)[None]
    parts = quantize_packed(weight, 4, 32)
    assert torch.equal(dequantize_packed(*parts, 4, 32, torch.float32), weight)


def test_packed_matmul_is_a_matmul_and_differentiable_in_x_alone():
    x, scales, zeros = numbers(4, 64, dtype=torch.float64), numbers(3, 2).double(), numbers(3, 2).double()
    codes = torch.randint(0, 8, (3, 64), generator=torch.Generator().manual_seed(0))
    weight = (codes - zeros.repeat_interleave(32, 1)) * scales.repeat_interleave(32, 1)
    x.requires_grad_(), scales.requires_grad_(), zeros.requires_grad_()
    out = packed_matmul(x, pack(codes, 3), scales, zeros, bits=3, group_size=32)
    torch.testing.assert_close(out, x @ weight.T)
    grads = torch.autograd.grad(out.sum(), [x, scales, zeros], allow_unused=True)
    torch.testing.assert_close(grads[0], weight.sum(0).expand(4, 64))
    assert grads[1:] == (None, None)


def test_packed_matmul_takes_integer_zeros_and_no_rows():
    parts = pack(torch.full((3, 32), 5), 4), torch.ones(3, 1), torch.full((3, 1), 4)
    for rows in (0, 2):
        out = packed_matmul(torch.ones(rows, 32), *parts, bits=4, group_size=32)
        assert torch.equal(out, torch.full((rows, 3), 32.0))


def test_packed_inputs_are_checked():
    x, (codes, scales, zeros) = numbers(2, 64), quantize_packed(numbers(3, 64), 4, 32)
    for bits in (1, 9):
        with pytest.raises(ConfigError, match=f"bits={bits}; a code has 2 to 8"):
            packed_matmul(x, codes, scales, zeros, bits=bits, group_size=32)
    with pytest.raises(ShapeError, match=r"must be \(3, 6\), \(3, 2\), \(3, 2\)"):
        packed_matmul(x, codes, scales, zeros, bits=3, group_size=32)
    with pytest.raises(ShapeError, match=r"must be \(3, 8\), \(3, 4\), \(3, 4\)"):
        packed_matmul(x, codes, scales, zeros, bits=4, group_size=16)
    for group_size in (0, 48):
        with pytest.raises(ShapeError, match=f"32 and group_size={group_size} must divide"):
            packed_matmul(x, codes, scales, zeros, bits=4, group_size=group_size)
    with pytest.raises(ShapeError, match="rows of 40 values"):
        pack(torch.zeros(1, 40).int(), 4)


def test_int8_weights_are_off_by_half_a_step_at_most():
    weight = numbers(6, 40)
    weight[2] = 0
    codes, scale = quantize_int8(weight)
    assert codes.dtype == torch.int8
    assert (codes.float().abs().amax(-1) == torch.tensor([127, 127, 0, 127, 127, 127])).all()
    assert ((codes * scale[:, None] - weight).abs() <= 0.501 * scale[:, None]).all()


@pytest.mark.parametrize("num_in", [1, 40, 3000])  # the last is more than one float32 sum holds exactly
def test_int8_matmul_sums_integers_exactly(num_in):
    # Every row's largest value is 127, so that its codes are its values.
    stream = torch.Generator().manual_seed(0)
    x = torch.randint(100, 128, (4, num_in), generator=stream)
    x[:, 0] = 127
    weight = torch.randint(-128, -100, (3, num_in), generator=stream, dtype=torch.int8)
    out = int8_matmul(x.double(), weight, torch.tensor([1.0, 0.5, 2.0]).double())
    exact = (x @ weight.long().T).double() * torch.tensor([1.0, 0.5, 2.0]).double()
    torch.testing.assert_close(out, exact, rtol=1e-15, atol=0)


def test_int8_matmul_is_near_the_matmul_it_stands_for():
    x, weight = numbers(5, 256), numbers(7, 256).flip(1)
    out = int8_matmul(x, *quantize_int8(weight))
    error = (out - x @ weight.T).norm() / (x @ weight.T).norm()
    assert 1e-4 < error < 0.02


def test_int8_matmul_is_the_same_under_autocast_and_for_empty_and_zero_rows():
    x, parts = numbers(5, 64), quantize_int8(numbers(7, 64).flip(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = int8_matmul(x, *parts)
    assert torch.equal(under_autocast, int8_matmul(x, *parts))
    assert int8_matmul(x[:0], *parts).shape == (0, 7)
    assert torch.equal(int8_matmul(torch.zeros(2, 64), *parts), torch.zeros(2, 7))


def test_int8_inputs_are_checked():
    codes, scale = quantize_int8(numbers(3, 8))
    for x, weight, wrong in (
        (numbers(2, 7), codes, scale),
        (numbers(2, 8), codes.float(), scale),
        (numbers(2, 8), codes, scale[:2]),
    ):
        with pytest.raises(ShapeError, match="int8_matmul: x"):
            int8_matmul(x, weight, wrong)


def test_the_nf4_code_book_is_that_of_its_formula():
    # Dettmers et al. 2023, appendix E: quantiles of a normal, 8 above and 7 below zero, and zero itself.
    offset = 0.5 * ((1 - 1 / 32) + (1 - 1 / 30))
    above = norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
    below = -norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    book = np.sort(np.concatenate((above, [0.0], below)))
    np.testing.assert_allclose(NF4_CODE_BOOK, book / book.max(), atol=1e-6)


def test_nf4_reads_high_bits_first_and_scales_by_block():
    codes = torch.tensor([0x0F, 0x7A, 0xF0], dtype=torch.uint8)
    weight = nf4_dequantize(codes, torch.tensor([2.0, 10.0]), shape=(5,), block_size=4, dtype=torch.float32)
    torch.testing.assert_close(weight, torch.tensor([-2.0, 2.0, 0.0, 2 * NF4_CODE_BOOK[10], 10.0]))


@pytest.mark.parametrize("shape", [(6, 10), (7,), (1,), (), (0, 4), (2, 3, 5)])
def test_nf4_rounds_to_the_nearest_code(shape):
    weight = 5 * numbers(*shape)
    codes, absmax = quantize_nf4(weight, 16)
    back = nf4_dequantize(codes, absmax, shape=shape, block_size=16, dtype=torch.float32)
    assert back.shape == shape
    maxima = absmax.repeat_interleave(16)[: weight.numel()].view(shape)
    choices = maxima[..., None] * torch.tensor(NF4_CODE_BOOK)
    nearest = (choices - weight[..., None]).abs().amin(-1)
    torch.testing.assert_close((back - weight).abs(), nearest, rtol=1e-5, atol=1e-6)


def test_nf4_zeros_stay_zero_and_the_format_is_the_callers():
    codes, absmax = quantize_nf4(torch.zeros(3, 3), 4)
    back = nf4_dequantize(codes, absmax, shape=(3, 3), block_size=4, dtype=torch.bfloat16)
    assert torch.equal(back, torch.zeros(3, 3, dtype=torch.bfloat16))


def test_nf4_inputs_are_checked():
    codes, absmax = quantize_nf4(numbers(4, 4), 8)
    for wrong in ((codes[:-1], absmax), (codes, absmax[:-1])):
        with pytest.raises(ShapeError, match=r"needs \(8,\) and \(2,\)"):
            nf4_dequantize(*wrong, shape=(4, 4), block_size=8, dtype=torch.float32)
    with pytest.raises(ConfigError, match="block_size=0"):
        quantize_nf4(numbers(4), 0)
