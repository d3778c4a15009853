"""The slot cache: what is stored is read, whatever grows or moves."""

import pytest
import torch
from torch import Tensor

from portable.engine.native.cache import DecodeView, PrefillView, SlotCache
from portable.kernel.reference.attention import attention
from portable.kernel.reference.decode import decode_attention

LAYERS, HEADS, KV_HEADS, HEAD_DIM = 2, 4, 2, 8


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled(num_rows: int, num_positions: int) -> SlotCache:
    """A cache in which entry (layer, row, position) holds that number, so that a mix-up shows."""
    cache = SlotCache(LAYERS, torch.device("cpu"))
    cache.reserve(num_rows, num_positions)
    rows = torch.arange(num_rows).repeat_interleave(num_positions)
    positions = torch.arange(num_positions).repeat(num_rows)
    for layer in range(LAYERS):
        value = (100 * layer + 10 * rows + positions)[:, None, None].expand(-1, KV_HEADS, HEAD_DIM).float()
        cache.store(layer, rows, positions, value, -value)
    return cache


def test_stored_entries_are_read_back() -> None:
    keys, values = filled(3, 4).read(1, 2, 3)
    assert keys.shape == (2, 3, KV_HEADS, HEAD_DIM)
    assert keys[:, :, 0, 0].tolist() == [[100, 101, 102], [110, 111, 112]]
    assert torch.equal(values, -keys)


def test_growing_keeps_what_is_stored() -> None:
    cache = filled(2, 3)
    before = cache.read(0, 2, 3)[0].clone()
    cache.reserve(5, 9)
    index = torch.tensor([4]), torch.tensor([8])
    cache.store(0, *index, torch.ones(1, KV_HEADS, HEAD_DIM), torch.ones(1, KV_HEADS, HEAD_DIM))
    assert torch.equal(cache.read(0, 2, 3)[0], before)
    assert float(cache.read(0, 5, 9)[0][4, 8].mean()) == 1


def test_reserving_less_never_shrinks() -> None:
    cache = filled(3, 4)
    cache.reserve(1, 1)
    assert (cache.num_rows, cache.num_positions) == (3, 4)


def test_moving_copies_whole_slots_of_all_layers() -> None:
    cache = filled(4, 2)
    cache.move([3, 2], [0, 1])
    for layer in range(LAYERS):
        keys, values = cache.read(layer, 4, 2)
        assert keys[:, 0, 0, 0].tolist() == [100 * layer + 10 * row for row in (3, 2, 2, 3)]
        assert torch.equal(values, -keys)


def test_moving_nothing_changes_nothing() -> None:
    cache = filled(2, 2)
    cache.move([], [])
    assert cache.read(0, 2, 1)[0][:, 0, 0, 0].tolist() == [0, 10]


def test_reading_an_empty_cache_is_a_bug_and_says_so() -> None:
    with pytest.raises(RuntimeError, match="before anything was stored"):
        SlotCache(1, torch.device("cpu")).read(0, 1, 1)


def test_the_first_write_fixes_the_number_format() -> None:
    cache = SlotCache(1, torch.device("cpu"))
    cache.reserve(1, 2)
    entry = torch.ones(1, KV_HEADS, HEAD_DIM, dtype=torch.bfloat16)
    cache.store(0, torch.tensor([0]), torch.tensor([0]), entry, entry)
    cache.store(0, torch.tensor([0]), torch.tensor([1]), entry.float(), entry.float())
    assert cache.read(0, 1, 2)[0].dtype is torch.bfloat16


def test_prefill_then_decode_equals_attention_over_the_whole_sequence() -> None:
    """Two prompts packed into one row, one of them stored in two slots, then one token each."""
    lengths = [3, 5]
    total = sum(lengths)
    q, k, v = (
        random(1, total, heads, HEAD_DIM, seed=i) for i, heads in enumerate((HEADS, KV_HEADS, KV_HEADS))
    )
    cache = SlotCache(1, torch.device("cpu"))
    cache.reserve(3, 8)
    spans = [(0, 0, 3), (1, 3, 5), (2, 0, 3)]  # slot, first token, length: slots 0 and 2 share a prompt
    view = PrefillView(
        cache=cache,
        attention=attention,
        cu_seqlens=torch.tensor([0, 3, 8], dtype=torch.int32),
        source=torch.tensor([start + i for _, start, size in spans for i in range(size)]),
        rows=torch.tensor([slot for slot, _, size in spans for _ in range(size)]),
        positions=torch.tensor([i for _, _, size in spans for i in range(size)]),
    )
    out = view.attend(0, q, k, v)
    for start, size in ((0, 3), (3, 5)):
        part = slice(start, start + size)
        torch.testing.assert_close(out[:, part], attention(q[:, part], k[:, part], v[:, part]))

    new_q, new_k, new_v = (random(3, 1, heads, HEAD_DIM, seed=9 + i) for i, heads in enumerate((HEADS, 2, 2)))
    decode = DecodeView(cache, decode_attention, torch.arange(3), torch.tensor([3, 5, 3]), 6)
    out = decode.attend(0, new_q, new_k, new_v)
    for slot, start, size in spans:
        part = slice(start, start + size)
        whole = [
            torch.cat((old[:, part], new[slot : slot + 1]), dim=1)
            for old, new in ((q, new_q), (k, new_k), (v, new_v))
        ]
        torch.testing.assert_close(out[slot], attention(*whole)[0, -1:])
