import pytest
import torch

from backends.cpu.kernel.attention import attention, decode_attention
from portable.core.errors import ShapeError
from portable.kernel.reference.attention import attention as reference
from portable.kernel.reference.decode import decode_attention as decode_reference

SEGMENTS = {
    "rows": None,
    "uniform": [0, 4, 8, 12, 16, 20, 24],
    "one": [0, 24],
    "ragged": [0, 1, 6, 7, 12, 20, 24],
    "ragged with empty ones": [0, 0, 5, 5, 10, 24, 24],
    "uniform with an empty one": [0, 12, 12, 24],
    "two lengths": [0, 4, 12, 16, 20, 24],
    "two lengths and empty ones": [0, 0, 4, 12, 16, 16, 20, 24],
    "all of different lengths": [0, 1, 3, 6, 10, 24],
}


def qkv(dtype=torch.float32, heads=4, kv_heads=2):
    stream = torch.Generator().manual_seed(0)
    sizes = [(2, 12, count, 8) for count in (heads, kv_heads, kv_heads)]
    return [torch.randn(size, generator=stream).to(dtype).requires_grad_() for size in sizes]


def relative_error(ours, exact):
    return ((ours.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("name", SEGMENTS)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_values_and_gradients_equal_the_reference_in_float64(name, causal, kv_heads):
    bounds = None if SEGMENTS[name] is None else torch.tensor(SEGMENTS[name], dtype=torch.int32)
    inputs = qkv(kv_heads=kv_heads)
    doubles = [x.detach().double().requires_grad_() for x in inputs]
    pull = torch.randn(2, 12, 4, 8, generator=torch.Generator().manual_seed(1))
    ours = attention(*inputs, cu_seqlens=bounds, causal=causal, scale=0.4)
    exact = reference(*doubles, cu_seqlens=bounds, causal=causal, scale=0.4)
    assert relative_error(ours.detach(), exact.detach()) < 1e-6
    (ours * pull).sum().backward()
    (exact * pull).sum().backward()
    for mine, right in zip(inputs, doubles, strict=True):
        assert relative_error(mine.grad, right.grad) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_errors_are_those_of_rounding(dtype):
    inputs = [x.detach() for x in qkv(dtype)]
    bounds = torch.tensor(SEGMENTS["ragged"], dtype=torch.int32)
    ours = attention(*inputs, cu_seqlens=bounds)
    exact = reference(*(x.double() for x in inputs), cu_seqlens=bounds)
    assert ours.dtype == dtype
    assert relative_error(ours, exact) < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("strided", [False, True])
def test_inputs_may_be_views_and_are_not_changed(strided):
    inputs = [x.detach() for x in qkv()]
    if strided:
        inputs = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in inputs]
    before = [x.clone() for x in inputs]
    bounds = torch.tensor(SEGMENTS["two lengths"], dtype=torch.int32)
    torch.testing.assert_close(attention(*inputs, cu_seqlens=bounds), reference(*inputs, cu_seqlens=bounds))
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))


@pytest.mark.parametrize("edges", [[0, 7, 12, 24], [0, 2, 7, 12, 14, 19, 24]])
def test_other_segments_are_never_read(edges):
    q, k, v = (x.detach() for x in qkv())
    bounds = torch.tensor(edges, dtype=torch.int32)
    first = attention(q, k, v, cu_seqlens=bounds)
    flat_k, flat_v = k.view(24, 2, 8), v.view(24, 2, 8)
    flat_k[7:12], flat_v[7:12] = float("nan"), float("nan")
    second = attention(q, k, v, cu_seqlens=bounds)
    changed = (first != second).flatten(0, 1).flatten(1).any(1)
    assert changed.tolist() == [7 <= token < 12 for token in range(24)]


@pytest.mark.parametrize("lengths", [[1, 9, 16], [16, 16, 16], [3, 0, 2], [0, 0, 0]])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_decoding_equals_the_reference(lengths, kv_heads):
    stream = torch.Generator().manual_seed(0)
    q = torch.randn(3, 4, 8, generator=stream)
    k, v = torch.randn(2, 3, 16, kv_heads, 8, generator=stream)
    ours = decode_attention(q, k, v, torch.tensor(lengths))
    exact = decode_reference(q.double(), k.double(), v.double(), torch.tensor(lengths))
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-6)


def test_bad_input_is_refused_as_by_the_reference():
    q, k, v = (x.detach() for x in qkv())
    with pytest.raises(ShapeError, match="number of tokens, 24"):
        attention(q, k, v, cu_seqlens=torch.tensor([0, 23], dtype=torch.int32))
    with pytest.raises(ShapeError, match="multiple of their heads"):
        attention(q[:, :, :3], k, v)
    with pytest.raises(ShapeError, match="do not fit"):
        decode_attention(q[:, 0, :3], k, v, torch.tensor([1, 1]))


def test_no_tokens_at_all():
    q, k, v = (x.detach()[:, :0] for x in qkv())
    out = attention(q, k, v, cu_seqlens=torch.tensor([0, 0], dtype=torch.int32))
    assert out.shape == (2, 0, 4, 8)
