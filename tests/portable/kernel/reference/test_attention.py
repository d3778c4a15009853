import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from portable.core.errors import ConfigError, ShapeError
from portable.kernel.reference.attention import (
    attention,
    attention_with_lse,
    segment_lengths,
    visible_pairs,
)


def draw(*shapes, dtype=torch.float64):
    stream = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=stream, dtype=dtype) for shape in shapes]


def qkv(rows=2, tokens=6, heads=4, kv_heads=2, head_dim=8, dtype=torch.float64, keys=None):
    keys = tokens if keys is None else keys
    kv = (rows, keys, kv_heads, head_dim)
    return draw((rows, tokens, heads, head_dim), kv, kv, dtype=dtype)


def bounds(*edges):
    return torch.tensor(edges, dtype=torch.int32)


def by_hand(q, k, v, seen, scale, sink=None):
    """One query against the keys it sees, in plain Python: the output and the log of the denominator."""
    logits = [scale * sum(a * b for a, b in zip(q.tolist(), k[j].tolist(), strict=True)) for j in seen]
    weights = [math.exp(logit) for logit in logits]
    total = sum(weights) + (0.0 if sink is None else math.exp(sink))
    out = torch.zeros_like(q)
    for j, weight in zip(seen, weights, strict=True):
        out += v[j] * (weight / total)
    return out, math.log(total) if total else -math.inf


def sees(i, j, queries, keys, causal, align, window):
    distance = i + (keys - queries if align == "end" else 0) - j
    if window is not None and abs(distance) >= window:
        return False
    return distance >= 0 or not causal


def check_by_hand(q, k, v, edges_q, edges_k, *, causal, align, window, sink_N):
    """Every output of ``attention_with_lse`` against plain Python, segment by segment."""
    rule = {"causal": causal, "align": align, "window": window}
    given = {"cu_seqlens": bounds(*edges_q), "cu_seqlens_k": bounds(*edges_k), "sink_N": sink_N, "scale": 0.3}
    out, lse = attention_with_lse(q, k, v, **given, **rule)
    group = q.shape[2] // k.shape[2]
    segments = zip(itertools.pairwise(edges_q), itertools.pairwise(edges_k), strict=True)
    for (start_q, end_q), (start_k, end_k) in segments:
        queries, keys = end_q - start_q, end_k - start_k
        for i, head in itertools.product(range(queries), range(q.shape[2])):
            seen = [start_k + j for j in range(keys) if sees(i, j, queries, keys, **rule)]
            kv_head, token = head // group, start_q + i
            sink = None if sink_N is None else float(sink_N[head])
            expected = by_hand(q[0, token, head], k[0, :, kv_head], v[0, :, kv_head], seen, 0.3, sink)
            torch.testing.assert_close(out[0, token, head], expected[0])
            assert float(lse[0, token, head]) == pytest.approx(expected[1])


@pytest.mark.parametrize("sink", [False, True])
@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("align", ["end", "start"])
@pytest.mark.parametrize("causal", [True, False])
def test_every_output_by_hand(causal, align, window, sink):
    """Segments with equal counts, fewer queries than keys, more, no queries, no keys."""
    q, k, v = draw((1, 12, 4, 8), (1, 14, 2, 8), (1, 14, 2, 8))
    (sinks,) = draw((4,))
    rule = {"causal": causal, "align": align, "window": window, "sink_N": sinks if sink else None}
    check_by_hand(q, k, v, [0, 4, 6, 10, 10, 12], [0, 4, 9, 11, 14, 14], **rule)


@pytest.mark.parametrize("causal", [True, False])
def test_against_torch_with_an_explicit_mask(causal):
    q, k, v = qkv(tokens=5, keys=9)
    for align, window in itertools.product(("end", "start"), (None, 2)):
        pairs = itertools.product(range(5), range(9))
        mask = torch.tensor([sees(i, j, 5, 9, causal, align, window) for i, j in pairs]).view(5, 9)
        expected = F.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in (q, k, v)), attn_mask=mask, enable_gqa=True
        )
        out = attention(q, k, v, causal=causal, align=align, window=window)
        torch.testing.assert_close(out, expected.transpose(1, 2))


@pytest.mark.parametrize(
    ("queries", "keys", "align", "rows"),
    [
        (2, 3, "end", ["110", "111"]),
        (2, 3, "start", ["100", "110"]),
        (3, 2, "end", ["00", "10", "11"]),
        (3, 2, "start", ["10", "11", "11"]),
    ],
)
def test_causal_alignment_by_hand(queries, keys, align, rows):
    visible = visible_pairs(queries, keys, causal=True, align=align, window=None)
    assert ["".join(str(int(seen)) for seen in row) for row in visible] == rows


@pytest.mark.parametrize(
    ("causal", "window", "rows"),
    [
        (True, 1, ["1000", "0100", "0010", "0001"]),
        (True, 2, ["1000", "1100", "0110", "0011"]),
        (True, 4, ["1000", "1100", "1110", "1111"]),
        (False, 1, ["1000", "0100", "0010", "0001"]),
        (False, 2, ["1100", "1110", "0111", "0011"]),
    ],
)
def test_a_window_counts_the_token_itself(causal, window, rows):
    visible = visible_pairs(4, 4, causal=causal, align="end", window=window)
    assert ["".join(str(int(seen)) for seen in row) for row in visible] == rows


def test_sink_by_hand():
    q, k, v = torch.zeros(1, 1, 2, 4), torch.zeros(1, 3, 1, 4), torch.ones(1, 3, 1, 4)
    sink_N = torch.tensor([0.0, math.log(3)])  # as heavy as one key, and as all three
    out, lse = attention_with_lse(q, k, v, sink_N=sink_N)
    torch.testing.assert_close(out[0, 0, :, 0], torch.tensor([3 / 4, 3 / 6]))
    torch.testing.assert_close(lse[0, 0], torch.tensor([math.log(4), math.log(6)]))


def test_lse_joins_attentions_over_parts_of_the_keys():
    q, k, v = qkv(tokens=3, keys=8)
    (out_a, lse_a), (out_b, lse_b) = (
        attention_with_lse(q, k[:, part], v[:, part], causal=False) for part in (slice(5), slice(5, 8))
    )
    lse = torch.logaddexp(lse_a, lse_b)
    joined = out_a * (lse_a - lse).exp().unsqueeze(-1) + out_b * (lse_b - lse).exp().unsqueeze(-1)
    whole, whole_lse = attention_with_lse(q, k, v, causal=False)
    torch.testing.assert_close(joined, whole)
    torch.testing.assert_close(lse, whole_lse)


def test_rows_are_segments_where_there_are_no_bounds():
    q, k, v = qkv(tokens=3, keys=5)
    out = attention(q, k, v)
    torch.testing.assert_close(
        out, attention(q, k, v, cu_seqlens=bounds(0, 3, 6), cu_seqlens_k=bounds(0, 5, 10))
    )
    q, k, v = qkv()
    torch.testing.assert_close(attention(q, k, v), attention(q, k, v, cu_seqlens=bounds(0, 6, 12)))


def test_default_scale_is_one_over_root_head_dim():
    q, k, v = qkv()
    torch.testing.assert_close(attention(q, k, v), attention(q, k, v, scale=1 / math.sqrt(8)))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("align", ["end", "start"])
def test_gradients_are_right(causal, align):
    """Of both results, with a window, a sink, grouped heads and queries that see nothing."""
    q, k, v, sink_N = (x.requires_grad_() for x in draw((1, 6, 2, 3), (1, 6, 1, 3), (1, 6, 1, 3), (2,)))
    rule = {"causal": causal, "align": align, "window": 2}
    edges = {"cu_seqlens": bounds(0, 2, 6), "cu_seqlens_k": bounds(0, 4, 6)}
    assert torch.autograd.gradcheck(
        lambda q, k, v, sink_N: attention_with_lse(q, k, v, sink_N=sink_N, **edges, **rule), (q, k, v, sink_N)
    )
    seen = {"cu_seqlens": bounds(0, 3, 6), "causal": causal}
    assert torch.autograd.gradcheck(lambda q, k, v: attention_with_lse(q, k, v, **seen), (q, k, v))


@pytest.mark.parametrize("sink", [False, True])
@pytest.mark.parametrize("keys", [0, 2])
def test_a_query_that_sees_nothing_gives_zeros_and_no_gradient(keys, sink):
    q, k, v = (x.requires_grad_() for x in qkv(tokens=4, keys=keys))
    sink_N = torch.zeros(4, dtype=torch.float64, requires_grad=True) if sink else None
    out, lse = attention_with_lse(
        q, k, v, sink_N=sink_N
    )  # causal, at the end: queries 0 and 1 come too early
    blind = 4 - keys
    assert torch.equal(out[:, :blind], torch.zeros_like(out[:, :blind]))
    assert torch.equal(lse[:, :blind], torch.full_like(lse[:, :blind], 0.0 if sink else -math.inf))
    assert (out[:, blind:] != 0).all()
    leaves = [x for x in (q, k, v, sink_N) if x is not None]
    grads = torch.autograd.grad([out, lse], leaves, [torch.ones_like(out), torch.ones_like(lse)])
    assert all(grad.isfinite().all() for grad in grads)
    assert torch.equal(grads[0][:, :blind], torch.zeros_like(grads[0][:, :blind]))
    assert keys == 0 or (grads[0][:, blind + 1 :] != 0).all()


def test_large_logits_stay_finite():
    q, k, v = (x.requires_grad_() for x in qkv(dtype=torch.float32))
    out, lse = attention_with_lse(1e4 * q, 1e4 * k, v, sink_N=torch.full((4,), 1e4))
    assert out.isfinite().all()
    assert lse.isfinite().all()
    grads = torch.autograd.grad(out.sum() + lse.sum(), (q, k, v))
    assert all(grad.isfinite().all() for grad in grads)


def test_16_bit_inputs_are_summed_in_float32():
    q, k, v = (x.bfloat16() for x in qkv())
    out, lse = attention_with_lse(q, k, v)
    assert (out.dtype, lse.dtype) == (torch.bfloat16, torch.float32)
    wide_out, wide_lse = attention_with_lse(q.float(), k.float(), v.float())
    assert torch.equal(out, wide_out.bfloat16())
    assert torch.equal(lse, wide_lse)
    assert torch.equal(attention(q, k.float(), v), out)


def test_autocast_changes_nothing():
    q, k, v = qkv(dtype=torch.float32)
    (sink_N,) = draw((4,), dtype=torch.float32)
    expected = attention_with_lse(q, k, v, sink_N=sink_N)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for out, wanted in zip(attention_with_lse(q, k, v, sink_N=sink_N), expected, strict=True):
            assert torch.equal(out, wanted)


@pytest.mark.parametrize("shape", [(0, 3, 2, 4), (2, 0, 2, 4), (1, 1, 1, 1)])
def test_smallest_sizes(shape):
    q, k, v = (x.requires_grad_() for x in draw(shape, shape, shape))
    out, lse = attention_with_lse(q, k, v, window=1)
    assert (out.shape, lse.shape) == (shape, shape[:3])
    assert torch.equal(out, v)
    (out.sum() + lse.sum()).backward()
    if not out.numel():
        edges = bounds(0, 0)
        assert attention(q, k, v, cu_seqlens=edges).shape == shape


def test_inputs_may_lie_anyhow_in_memory():
    inputs = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in qkv(rows=3)]
    inputs[0] = inputs[0][:1].expand(3, -1, -1, -1)
    edges = bounds(0, 5, 18)
    expected = attention(*(x.contiguous() for x in inputs), cu_seqlens=edges)
    torch.testing.assert_close(attention(*inputs, cu_seqlens=edges), expected)


def test_shapes_are_known_without_data():
    q, k, v = (x.to("meta") for x in qkv(tokens=3, keys=5, dtype=torch.bfloat16))
    out, lse = attention_with_lse(q, k, v, window=2, sink_N=torch.zeros(4, device="meta"))
    assert (out.shape, out.dtype, lse.shape, lse.dtype) == (q.shape, q.dtype, q.shape[:3], torch.float32)


@pytest.mark.parametrize("edges", [[0, 5], [1, 12], [0, 7, 5, 12], [0, 13], [0], [], [[0, 12]]])
def test_bounds_that_do_not_cover_the_tokens_are_refused(edges):
    q, k, v = qkv()
    with pytest.raises(ShapeError, match=r"cu_seqlens \[.*number of tokens, 12"):
        attention(q, k, v, cu_seqlens=torch.tensor(edges, dtype=torch.int32))
    with pytest.raises(ShapeError, match=r"cu_seqlens_k \[.*number of tokens, 12"):
        attention(q, k, v, cu_seqlens=bounds(0, 12), cu_seqlens_k=torch.tensor(edges, dtype=torch.int32))


def test_bounds_that_do_not_pair_are_refused():
    q, k, v = qkv()
    with pytest.raises(ShapeError, match="bounds 2 segments and cu_seqlens_k 1"):
        attention(q, k, v, cu_seqlens=bounds(0, 5, 12), cu_seqlens_k=bounds(0, 12))
    with pytest.raises(ShapeError, match="without cu_seqlens"):
        attention(q, k, v, cu_seqlens_k=bounds(0, 12))
    q, k, v = qkv(tokens=3, keys=5)
    with pytest.raises(ShapeError, match="number of tokens, 10"):
        attention(q, k, v, cu_seqlens=bounds(0, 6))


def test_settings_are_checked():
    q, k, v = qkv()
    for window in (0, -1):
        with pytest.raises(ConfigError, match=f"window={window}; use 1"):
            attention(q, k, v, window=window)
    with pytest.raises(ConfigError, match="align='left'; use one of end, start"):
        attention(q, k, v, align="left")
    for shape in ((2,), (1, 4), ()):
        with pytest.raises(ShapeError, match="each of the 4 query heads"):
            attention(q, k, v, sink_N=torch.zeros(shape))


def test_segment_lengths():
    assert segment_lengths(torch.tensor([0, 2, 2, 5]), 5) == [2, 0, 3]


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 3), (1, 2), (4, 0), (0, 2)])
def test_heads_that_do_not_divide_are_refused(heads, kv_heads):
    with pytest.raises(ShapeError, match="multiple of their heads"):
        attention(*qkv(heads=heads, kv_heads=kv_heads))


def test_shapes_that_do_not_fit_are_refused():
    q, k, v = qkv()
    for inputs in ((q, k, v[:, :5]), (q[:1], k, v), (q[..., :4], k, v), (q[..., :0], k[..., :0], v[..., :0])):
        with pytest.raises(ShapeError, match="do not fit"):
            attention(*inputs)
    for inputs in ((q[0], k, v), (q, k[0], v[0])):
        with pytest.raises(ShapeError, match="do not fit"):
            attention(*inputs)
