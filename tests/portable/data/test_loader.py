"""Batches: every token in its place, segments kept apart, positions that survive a change of world size."""

import itertools

import pytest
import torch

from portable.core.errors import ConfigError, DataError
from portable.core.record import Batch
from portable.data.loader import BatchShape, IndexedSource, PackedTokenSource

LENGTHS = [3, 7, 1, 5, 12, 4]


def _rows(batches):
    return torch.cat([batch.input_ids_BT for batch in batches])


def _stream(source, steps):
    """The inputs of some steps of one rank, end to end."""
    return torch.cat([_rows(source.next_batches()).flatten() for _ in range(steps)])


def test_an_epoch_holds_every_token_once_and_documents_whole(make_shards):
    shards = make_shards(LENGTHS)
    source = PackedTokenSource(shards, seq_len=8, shape=BatchShape(micro_batch_size=2))
    epoch = _stream(source, 2).tolist()
    documents = [list(group) for group in _split(epoch)]
    assert sorted(documents) == sorted(shards.document(i).tolist() for i in range(len(shards)))
    assert documents != [shards.document(i).tolist() for i in range(len(shards))]


def _split(ids):
    start = 0
    for place, token in enumerate(ids):
        if token == 0:
            yield ids[start : place + 1]
            start = place + 1


def test_epochs_follow_without_a_gap_in_new_orders(make_shards):
    source = PackedTokenSource(make_shards(LENGTHS), seq_len=8, shape=BatchShape(micro_batch_size=1))
    ids = _stream(source, 12).tolist()
    first, second, third = ids[:32], ids[32:64], ids[64:96]
    assert sorted(first) == sorted(second) == sorted(third)
    assert len({tuple(first), tuple(second), tuple(third)}) == 3


def test_targets_are_the_inputs_one_later_also_across_windows(make_shards):
    source = PackedTokenSource(make_shards(LENGTHS), seq_len=5, shape=BatchShape(micro_batch_size=4))
    (first,), (second,) = source.next_batches(), source.next_batches()
    assert torch.equal(first.target_ids_BT.flatten()[:-1], first.input_ids_BT.flatten()[1:])
    assert first.target_ids_BT[-1, -1] == second.input_ids_BT[0, 0]


def test_every_token_is_learnt_and_a_documents_first_from_the_end_of_text_alone(make_shards):
    source = PackedTokenSource(make_shards(LENGTHS), seq_len=16, shape=BatchShape(micro_batch_size=2))
    (batch,) = source.next_batches()
    assert batch.num_terms == 32
    ends = batch.input_ids_BT == 0
    assert ends.any()
    assert (batch.position_ids_BT[ends] == 0).all()


def test_positions_and_boundaries_restart_at_documents(make_shards):
    source = PackedTokenSource(make_shards(LENGTHS), seq_len=16, shape=BatchShape(micro_batch_size=2))
    (batch,) = source.next_batches()
    starts = batch.position_ids_BT.flatten() == 0
    assert batch.cu_seqlens.dtype == torch.int32
    assert batch.cu_seqlens.tolist() == [*starts.nonzero().flatten().tolist(), 32]
    for left, right in itertools.pairwise(batch.cu_seqlens.tolist()):
        assert batch.position_ids_BT.flatten()[left:right].tolist() == list(range(right - left))
        assert (batch.input_ids_BT.flatten()[left + 1 : right] != 0).all()


def test_a_window_in_the_middle_of_a_document_starts_at_position_zero(make_shards):
    source = PackedTokenSource(make_shards([40]), seq_len=8, shape=BatchShape(micro_batch_size=4))
    (batch,) = source.next_batches()
    assert batch.input_ids_BT[1].tolist() == list(range(108, 116))
    assert batch.position_ids_BT.tolist() == [list(range(8))] * 4
    assert batch.cu_seqlens.tolist() == [0, 8, 16, 24, 32]


def test_without_the_mask_a_window_is_one_segment_and_all_is_learnt(make_shards):
    shape = BatchShape(micro_batch_size=2)
    source = PackedTokenSource(make_shards(LENGTHS), seq_len=16, shape=shape, document_mask=False)
    (batch,) = source.next_batches()
    assert batch.cu_seqlens is None
    assert batch.position_ids_BT.tolist() == [list(range(16))] * 2
    assert batch.num_terms == 32


def test_seed_and_nothing_else_decides_the_order(make_shards):
    shards, shape = make_shards(LENGTHS), BatchShape(micro_batch_size=2)
    one, again, other = (PackedTokenSource(shards, seq_len=8, shape=shape, seed=seed) for seed in (1, 1, 2))
    first = _stream(one, 4)
    assert torch.equal(first, _stream(again, 4))
    assert not torch.equal(first, _stream(other, 4))


def test_shard_size_does_not_change_batches(make_shards):
    shape = BatchShape(micro_batch_size=2)
    sources = [
        PackedTokenSource(make_shards(LENGTHS, shard_tokens=size, name=str(size)), seq_len=8, shape=shape)
        for size in (1, 10, 1000)
    ]
    streams = [_stream(source, 5) for source in sources]
    assert torch.equal(streams[0], streams[1])
    assert torch.equal(streams[0], streams[2])


def test_ranks_together_see_what_one_rank_sees(make_shards):
    shards = make_shards(LENGTHS)
    alone = PackedTokenSource(shards, seq_len=4, shape=BatchShape(micro_batch_size=2, grad_accum_steps=4))
    ranks = [
        PackedTokenSource(
            shards,
            seq_len=4,
            shape=BatchShape(micro_batch_size=2, grad_accum_steps=2, rank=rank, world_size=2),
        )
        for rank in range(2)
    ]
    for _ in range(3):
        whole = alone.next_batches()
        parts = [source.next_batches() for source in ranks]
        mixed = [parts[rank][step] for step in range(2) for rank in range(2)]
        assert torch.equal(_rows(whole), _rows(mixed))


def test_a_run_resumes_at_another_world_size(make_shards):
    shards = make_shards(LENGTHS)
    alone = PackedTokenSource(shards, seq_len=4, shape=BatchShape(micro_batch_size=2, grad_accum_steps=2))
    for _ in range(3):
        alone.next_batches()
    state = alone.state_dict()
    expected = _rows(alone.next_batches())
    ranks = [
        PackedTokenSource(shards, seq_len=4, shape=BatchShape(micro_batch_size=2, rank=rank, world_size=2))
        for rank in range(2)
    ]
    for source in ranks:
        source.load_state_dict(state)
    assert torch.equal(expected, torch.cat([_rows(source.next_batches()) for source in ranks]))


@pytest.mark.parametrize(("name", "value"), [("seed", 5), ("seq_len", 6), ("num_tokens", 99)])
def test_a_position_in_another_stream_is_refused(make_shards, name, value):
    source = PackedTokenSource(make_shards(LENGTHS), seq_len=4, shape=BatchShape(micro_batch_size=1))
    with pytest.raises(ConfigError, match=f"belongs to {name}={value}"):
        source.load_state_dict({**source.state_dict(), name: value})


def test_data_shorter_than_a_window_repeats_instead_of_failing(make_shards):
    source = PackedTokenSource(make_shards([2, 3]), seq_len=16, shape=BatchShape(micro_batch_size=1))
    (batch,) = source.next_batches()
    assert sorted(set(batch.input_ids_BT.flatten().tolist())) == [0, 100, 200, 201]


def test_empty_data_and_bad_shapes_are_refused(make_shards):
    with pytest.raises(DataError, match="hold no token"):
        PackedTokenSource(make_shards([]), seq_len=4, shape=BatchShape(micro_batch_size=1))
    with pytest.raises(ConfigError, match="seq_len=0"):
        PackedTokenSource(make_shards([3]), seq_len=0, shape=BatchShape(micro_batch_size=1))
    with pytest.raises(ConfigError, match="micro_batch_size=0"):
        BatchShape(micro_batch_size=0)
    with pytest.raises(ConfigError, match="grad_accum_steps=0"):
        BatchShape(micro_batch_size=1, grad_accum_steps=0)
    with pytest.raises(ConfigError, match="rank=2 does not exist in a world of 2"):
        BatchShape(micro_batch_size=1, rank=2, world_size=2)


def _collate(rows):
    ids_BT = torch.tensor(rows)[:, None]
    return Batch(ids_BT, ids_BT, torch.ones(ids_BT.shape), torch.zeros_like(ids_BT))


def test_indexed_epochs_hold_each_row_once_in_new_orders():
    source = IndexedSource(list(range(5)), _collate, shape=BatchShape(micro_batch_size=5), seed=3)
    epochs = [_rows(source.next_batches()).flatten().tolist() for _ in range(4)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_indexed_batches_may_span_epochs_and_lose_no_row():
    source = IndexedSource(list(range(5)), _collate, shape=BatchShape(micro_batch_size=3))
    rows = _stream(source, 5).tolist()
    assert [sorted(rows[start : start + 5]) for start in (0, 5, 10)] == [[0, 1, 2, 3, 4]] * 3


def test_indexed_source_resumes_at_another_world_size():
    rows = list(range(7))
    alone = IndexedSource(rows, _collate, shape=BatchShape(micro_batch_size=2, grad_accum_steps=2))
    alone.next_batches()
    state = alone.state_dict()
    expected = _rows(alone.next_batches())
    ranks = [
        IndexedSource(rows, _collate, shape=BatchShape(micro_batch_size=2, rank=rank, world_size=2))
        for rank in range(2)
    ]
    for source in ranks:
        source.load_state_dict(state)
    assert torch.equal(expected, torch.cat([_rows(source.next_batches()) for source in ranks]))


def test_indexed_source_refuses_other_rows_and_no_rows():
    source = IndexedSource([1, 2], _collate, shape=BatchShape(micro_batch_size=1))
    with pytest.raises(ConfigError, match="belongs to num_rows=3"):
        source.load_state_dict({"next_sample": 0, "seed": 0, "num_rows": 3})
    with pytest.raises(DataError, match="no row to train on"):
        IndexedSource([], _collate, shape=BatchShape(micro_batch_size=1))
