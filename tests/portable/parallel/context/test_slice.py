"""Batches, cut for a rank."""

from __future__ import annotations

import pytest
import torch

from portable.core.errors import ShapeError
from portable.core.record import IGNORED, Batch
from portable.parallel.context.order import TokenOrder
from portable.parallel.context.slice import fill_up, slice_batch, stretch_bounds
from portable.rl.batch import RolloutBatch

ORDER = TokenOrder(2, True)


def make_batch(length: int, bounds: list[int] | None = None) -> RolloutBatch:
    ids = torch.arange(1, 2 * length + 1).view(2, length)
    reals = dict.fromkeys(("advantages_BT", "old_log_probs_BT", "ref_log_probs_BT"), ids * 0.5)
    cu_seqlens = None if bounds is None else torch.tensor(bounds, dtype=torch.int32)
    return RolloutBatch(ids, ids + 1, torch.ones(2, length), ids - 1, cu_seqlens, **reals)


def test_every_tensor_with_a_value_for_each_token_is_cut():
    batch = make_batch(8)
    cut = slice_batch(batch, ORDER, 0, 8)
    assert cut.input_ids_BT.tolist() == [[1, 2, 7, 8], [9, 10, 15, 16]]
    assert cut.position_ids_BT.tolist() == [[0, 1, 6, 7], [8, 9, 14, 15]]
    assert torch.equal(cut.advantages_BT, cut.input_ids_BT * 0.5)
    assert isinstance(cut, RolloutBatch)
    assert cut.cu_seqlens is None
    assert cut.num_terms + slice_batch(batch, ORDER, 1, 8).num_terms == batch.num_terms


def test_what_fills_a_row_up_has_no_weight():
    cuts = [slice_batch(make_batch(5), ORDER, rank, 8) for rank in range(2)]
    assert [cut.loss_weight_BT[0].tolist() for cut in cuts] == [[1, 1, 0, 0], [1, 1, 1, 0]]
    assert cuts[1].learnt_target_ids_BT.tolist() == [[4, 5, 6, IGNORED], [9, 10, 11, IGNORED]]
    assert fill_up(torch.ones(1, 2), 3, IGNORED).tolist() == [[1, 1, IGNORED]]


def test_the_last_segment_of_a_row_takes_what_fills_it_up():
    cut = slice_batch(make_batch(5, [0, 2, 5, 9, 10]), ORDER, 0, 8)
    assert cut.cu_seqlens is not None
    assert (cut.cu_seqlens.tolist(), cut.cu_seqlens.dtype) == ([0, 2, 8, 12, 16], torch.int32)


def test_a_segment_over_two_rows_is_refused():
    with pytest.raises(ShapeError, match="a segment spans two of the 2 rows of 5 tokens"):
        stretch_bounds(torch.tensor([0, 4, 10]), 2, 5, 8)
    assert stretch_bounds(torch.tensor([0, 4, 10]), 1, 10, 12).tolist() == [0, 4, 12]


def test_a_tensor_of_another_shape_is_refused():
    batch = make_batch(4)
    batch.advantages_BT = torch.zeros(2)
    with pytest.raises(ShapeError, match=r"2 × 4 tokens holds a tensor of shape \(2,\)"):
        slice_batch(batch, ORDER, 0, 4)


def test_a_plain_batch_stays_one():
    ids = torch.zeros(1, 4, dtype=torch.long)
    assert type(slice_batch(Batch(ids, ids, ids.float(), ids), ORDER, 1, 4)) is Batch
