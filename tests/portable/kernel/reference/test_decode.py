import pytest
import torch

from portable.core.errors import ConfigError, ShapeError
from portable.kernel.reference.attention import attention
from portable.kernel.reference.decode import decode_attention, paged_attention

LENGTHS = torch.tensor([6, 4, 1])


def draw(*shapes, dtype=torch.float64):
    stream = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=stream, dtype=dtype) for shape in shapes]


def inputs(positions=6, dtype=torch.float64):
    """Queries and caches of three rows, four query and two key-value heads, and sinks."""
    kv = (3, positions, 2, 8)
    return draw((3, 4, 8), kv, kv, (4,), dtype=dtype)


def in_pages(k, v, page_size):
    """Scatter two caches over pages in random order, none of them in use twice; returns pages and table."""
    rows, positions = k.shape[:2]
    per_row = -(-positions // page_size)
    table = torch.randperm(rows * per_row, generator=torch.Generator().manual_seed(1)).view(rows, per_row)
    pages = [x.new_full((rows * per_row, page_size, *x.shape[2:]), 7.0) for x in (k, v)]
    for row in range(rows):
        for s in range(positions):
            for page, cache in zip(pages, (k, v), strict=True):
                page[table[row, s // page_size], s % page_size] = cache[row, s]
    return *pages, table


@pytest.mark.parametrize("sink", [False, True])
@pytest.mark.parametrize("window", [None, 1, 3, 9])
def test_decoding_equals_the_last_row_of_attention(window, sink):
    q, k, v, sinks = inputs()
    sink_N = sinks if sink else None
    out = decode_attention(q, k, v, LENGTHS, window=window, sink_N=sink_N, scale=0.4)
    for row, length in enumerate(LENGTHS.tolist()):
        cache = (k[row : row + 1, :length], v[row : row + 1, :length])
        last = attention(q[row, None, None], *cache, window=window, sink_N=sink_N, scale=0.4)
        torch.testing.assert_close(out[row], last[0, 0])


def test_default_scale_is_one_over_root_head_dim():
    q, k, v, _ = inputs()
    torch.testing.assert_close(
        decode_attention(q, k, v, LENGTHS), decode_attention(q, k, v, LENGTHS, scale=8**-0.5)
    )


def test_what_lies_beyond_the_length_does_not_matter():
    q, k, v, sink_N = inputs()
    lengths = torch.tensor([2, 0, 6])
    first = decode_attention(q, k, v, lengths, sink_N=sink_N)
    k[0, 2:], v[0, 2:] = 1e3, -1e3
    assert torch.equal(decode_attention(q, k, v, lengths, sink_N=sink_N), first)
    assert torch.equal(first[1], torch.zeros_like(first[1]))
    assert (first[0] != 0).all()


@pytest.mark.parametrize("sink", [False, True])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_paged_equals_decoding_of_the_gathered_pages(page_size, window, sink):
    q, k, v, sinks = inputs()
    rule = {"window": window, "sink_N": sinks if sink else None, "scale": 0.4}
    k_pages, v_pages, table = in_pages(k, v, page_size)
    expected = decode_attention(q, k, v, LENGTHS, **rule)
    torch.testing.assert_close(paged_attention(q, k_pages, v_pages, table, LENGTHS, **rule), expected)


@pytest.mark.parametrize("unused", [-1, -(2**40), 2**40])
def test_table_entries_beyond_the_length_are_arbitrary(unused):
    q, k, v, _ = inputs()
    lengths = torch.tensor([6, 0, 2])
    k_pages, v_pages, table = in_pages(k, v, 2)
    expected = paged_attention(q, k_pages, v_pages, table, lengths)
    table[1], table[2, 1:] = unused, unused
    assert torch.equal(paged_attention(q, k_pages, v_pages, table, lengths), expected)
    assert torch.equal(expected[1], torch.zeros_like(expected[1]))


def test_rows_may_share_a_page():
    q, k, v, _ = inputs()
    k_pages, v_pages, table = in_pages(k, v, 3)
    table[1, 0] = table[0, 0]
    shared_k, shared_v = k.clone(), v.clone()
    shared_k[1, :3], shared_v[1, :3] = k[0, :3], v[0, :3]
    expected = decode_attention(q, shared_k, shared_v, LENGTHS)
    torch.testing.assert_close(paged_attention(q, k_pages, v_pages, table, LENGTHS), expected)


def test_gradients_are_right():
    q, k, v, sink_N = (x.requires_grad_() for x in draw((2, 2, 3), (2, 4, 1, 3), (2, 4, 1, 3), (2,)))
    lengths = torch.tensor([3, 0])
    assert torch.autograd.gradcheck(
        lambda q, k, v, sink_N: decode_attention(q, k, v, lengths, window=2, sink_N=sink_N), (q, k, v, sink_N)
    )
    table = torch.tensor([[1], [0]])
    assert torch.autograd.gradcheck(lambda q, k, v: paged_attention(q, k, v, table, lengths), (q, k, v))


def test_sums_are_taken_in_float32_also_under_autocast():
    q, k, v, _ = inputs(dtype=torch.float32)
    expected = decode_attention(q, k, v, LENGTHS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(decode_attention(q, k, v, LENGTHS), expected)
    q, k, v = (x.bfloat16() for x in (q, k, v))
    out = decode_attention(q, k, v, LENGTHS)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, decode_attention(q.float(), k.float(), v.float(), LENGTHS).bfloat16())


def test_smallest_sizes():
    q, k, v, _ = inputs(positions=0)
    nothing = torch.zeros(3, dtype=torch.int64)
    assert torch.equal(decode_attention(q, k, v, nothing), torch.zeros_like(q))
    assert decode_attention(q[:0], k[:0], v[:0], nothing[:0]).shape == (0, 4, 8)
    pages = torch.zeros(1, 1, 2, 8).double()
    assert torch.equal(
        paged_attention(q, pages, pages, nothing.new_zeros(3, 0), nothing), torch.zeros_like(q)
    )
    table = nothing.new_zeros(0, 2)
    assert paged_attention(q[:0], pages, pages, table, nothing[:0]).shape == (0, 4, 8)


def test_shapes_are_known_without_data():
    q, k, v, sink_N = (x.to("meta") for x in inputs(dtype=torch.bfloat16))
    lengths, table = LENGTHS.to("meta"), torch.zeros(3, 2, dtype=torch.int64, device="meta")
    for out in (
        decode_attention(q, k, v, lengths, window=2, sink_N=sink_N),
        paged_attention(q, k, v, table, lengths, window=2, sink_N=sink_N),
    ):
        assert (out.shape, out.dtype) == (q.shape, q.dtype)


def test_bad_input_is_refused():
    q, k, v, _ = inputs()
    for cache in ((k, v[:, :5]), (k[:2], v[:2]), (k[..., :4], v[..., :4]), (k[:, :, :0], v[:, :, :0])):
        with pytest.raises(ShapeError, match="do not fit"):
            decode_attention(q, *cache, LENGTHS)
    for query, lengths in ((q, LENGTHS[:2]), (q, LENGTHS[:, None]), (q[:, None], LENGTHS)):
        with pytest.raises(ShapeError, match=r"decode_attention: q .* and lengths .* \(B, N, H\) and \(B,\)"):
            decode_attention(query, k, v, lengths)
    with pytest.raises(ConfigError, match="decode_attention: window=0"):
        decode_attention(q, k, v, LENGTHS, window=0)
    with pytest.raises(ShapeError, match="decode_attention: sink"):
        decode_attention(q, k, v, LENGTHS, sink_N=torch.zeros(2))


def test_bad_pages_are_refused():
    q, k, v, _ = inputs()
    k_pages, v_pages, table = in_pages(k, v, 2)
    for pages in (
        (k_pages, v_pages[:2]),
        (k_pages[:0], v_pages[:0]),
        (k_pages[:, :0], v_pages[:, :0]),
        (k[0], v[0]),
    ):
        with pytest.raises(ShapeError, match="at least one page of one position"):
            paged_attention(q, *pages, table, LENGTHS)
    for query in (q[:, :3], q[..., :4]):
        with pytest.raises(ShapeError, match="multiple of their heads"):
            paged_attention(query, k_pages, v_pages, table, LENGTHS)
    for wrong in (table[:2], table[0]):
        with pytest.raises(ShapeError, match=r"block_table .* must be \(B, M\)"):
            paged_attention(q, k_pages, v_pages, wrong, LENGTHS)
    with pytest.raises(ShapeError, match=r"paged_attention: q .* and lengths"):
        paged_attention(q, k_pages, v_pages, table, LENGTHS[:2])
    with pytest.raises(ConfigError, match="paged_attention: window=-1"):
        paged_attention(q, k_pages, v_pages, table, LENGTHS, window=-1)
