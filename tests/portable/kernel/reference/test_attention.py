import math

import pytest
import torch

from portable.core.errors import ShapeError
from portable.kernel.reference.attention import attention, decode_attention, segment_lengths


def qkv(rows=2, tokens=6, heads=4, kv_heads=2, head_dim=8, dtype=torch.float64):
    stream = torch.Generator().manual_seed(0)
    sizes = [(rows, tokens, count, head_dim) for count in (heads, kv_heads, kv_heads)]
    return [torch.randn(size, generator=stream, dtype=dtype) for size in sizes]


def by_hand(q, k, v, visible, scale):
    """One query vector against the visible keys, in plain Python."""
    scores = [scale * sum(a * b for a, b in zip(q.tolist(), k[j].tolist(), strict=True)) for j in visible]
    weights = [math.exp(score - max(scores)) for score in scores]
    total = sum(weights)
    rows = [v[j] * (weight / total) for j, weight in zip(visible, weights, strict=True)]
    return torch.stack(rows).sum(0)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("bounds", [None, [0, 2, 2, 9, 12]])
def test_every_output_by_hand(causal, bounds):
    q, k, v = qkv()
    cu_seqlens = None if bounds is None else torch.tensor(bounds, dtype=torch.int32)
    out = attention(q, k, v, cu_seqlens=cu_seqlens, causal=causal, scale=0.3).flatten(0, 1)
    flat_q, flat_k, flat_v = (x.flatten(0, 1) for x in (q, k, v))
    edges = bounds or [0, 6, 12]
    for token in range(12):
        start = max(edge for edge in edges if edge <= token)
        end = token + 1 if causal else min(edge for edge in edges if edge > token)
        for head in range(4):
            kv_head = head // 2
            expected = by_hand(
                flat_q[token, head], flat_k[:, kv_head], flat_v[:, kv_head], range(start, end), 0.3
            )
            torch.testing.assert_close(out[token, head], expected)


def test_default_scale_is_one_over_root_head_dim():
    q, k, v = qkv()
    torch.testing.assert_close(attention(q, k, v), attention(q, k, v, scale=1 / math.sqrt(8)))


def test_gradients_are_right():
    inputs = [x.requires_grad_() for x in qkv(1, 5, 2, 1, 4)]
    bounds = torch.tensor([0, 3, 5], dtype=torch.int32)
    assert torch.autograd.gradcheck(lambda *x: attention(*x, cu_seqlens=bounds), inputs)


def test_16_bit_inputs_are_summed_in_float32():
    q, k, v = (x.bfloat16() for x in qkv())
    out = attention(q, k, v)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, attention(q.float(), k.float(), v.float()).bfloat16())


def test_decoding_equals_the_last_row_of_attention():
    q, k, v = qkv()
    lengths = torch.tensor([6, 4])
    out = decode_attention(torch.stack([q[0, 5], q[1, 3]]), k, v, lengths)
    whole = attention(q, k, v)
    torch.testing.assert_close(out, torch.stack([whole[0, 5], whole[1, 3]]))


def test_what_lies_beyond_the_length_does_not_matter():
    q, k, v = qkv()
    lengths = torch.tensor([2, 0])
    first = decode_attention(q[:, 0], k, v, lengths)
    k[0, 2:], v[0, 2:] = 1e3, -1e3
    assert torch.equal(decode_attention(q[:, 0], k, v, lengths), first)
    assert torch.equal(first[1], torch.zeros_like(first[1]))


@pytest.mark.parametrize("bounds", [[0, 5], [1, 12], [0, 7, 5, 12], [0, 13], [0], []])
def test_bounds_that_do_not_cover_the_tokens_are_refused(bounds):
    q, k, v = qkv()
    with pytest.raises(ShapeError, match="number of tokens, 12"):
        attention(q, k, v, cu_seqlens=torch.tensor(bounds, dtype=torch.int32))


def test_segment_lengths():
    assert segment_lengths(torch.tensor([0, 2, 2, 5]), 5) == [2, 0, 3]


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 3), (1, 2)])
def test_heads_that_do_not_divide_are_refused(heads, kv_heads):
    with pytest.raises(ShapeError, match="multiple of their heads"):
        attention(*qkv(heads=heads, kv_heads=kv_heads))


def test_keys_and_values_of_different_shapes_are_refused():
    q, k, v = qkv()
    with pytest.raises(ShapeError, match="one shape"):
        attention(q, k, v[:, :5])
    with pytest.raises(ShapeError, match="do not fit"):
        decode_attention(q[:1, 0], k, v, torch.tensor([1]))
