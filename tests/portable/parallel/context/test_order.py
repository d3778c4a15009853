"""Dealing rows, against lists of positions written out."""

from __future__ import annotations

import pytest
import torch

from portable.core.errors import ShapeError
from portable.parallel.context.order import TokenOrder

ORDERS = [TokenOrder(size, balanced) for size in (1, 2, 3, 4) for balanced in (True, False)]
ROWS, LENGTH = 2, 24


def positions(order: TokenOrder, rank: int) -> list[int]:
    """Where the tokens of a rank stand in their row."""
    step = LENGTH // order.num_chunks
    return [chunk * step + place for chunk in order.chunks(rank) for place in range(step)]


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_every_token_is_dealt_once_and_rows_come_together_again(order: TokenOrder):
    dealt = [place for rank in range(order.size) for place in positions(order, rank)]
    assert sorted(dealt) == list(range(LENGTH))
    whole = torch.arange(ROWS * LENGTH * 3).view(ROWS, LENGTH, 3)
    for rank in range(order.size):
        assert torch.equal(order.part(whole, rank), whole[:, positions(order, rank)])
        assert positions(order, rank) == sorted(positions(order, rank))
    assert torch.equal(order.whole(order.parts(whole)), whole)


def test_a_length_that_cannot_be_dealt_is_refused():
    with pytest.raises(ShapeError, match="rows of 6 tokens cannot be dealt to 2 ranks in 4 equal chunks"):
        TokenOrder(2, True).part(torch.zeros(1, 6), 0)


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_what_is_seen_wholly_is_all_that_is_seen_of_another_rank(order: TokenOrder):
    for rank in range(order.size):
        for other in set(range(order.size)) - {rank}:
            queries, keys = order.seen(rank, other)
            wholly = {(q, k) for q in queries for k in keys}
            assert wholly == {(q, k) for q in order.chunks(rank) for k in order.chunks(other) if q > k}
            assert queries == order.chunks(rank)[len(order.chunks(rank)) - len(queries) :]
            assert keys == order.chunks(other)[: len(keys)]


def test_under_a_causal_mask_balanced_ranks_have_the_same_to_do():
    def pairs(order: TokenOrder, rank: int) -> int:
        return sum(position + 1 for position in positions(order, rank))

    balanced, plain = TokenOrder(4, True), TokenOrder(4, False)
    assert len({pairs(balanced, rank) for rank in range(4)}) == 1
    assert pairs(plain, 3) > 4 * pairs(plain, 0)


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_bounds_over_the_own_tokens_count_those_before_each_bound(order: TokenOrder):
    bounds = [0, 1, 5, 5, 20, 24, 31, 48]
    counts = order.count_before(torch.tensor(bounds, dtype=torch.int32), LENGTH)
    assert counts.dtype == torch.int32
    for rank in range(order.size):
        held = [row * LENGTH + place for row in range(ROWS) for place in positions(order, rank)]
        expected = [sum(token < bound for token in held) for bound in bounds]
        assert counts[list(order.chunks(rank))].sum(0).tolist() == expected


@pytest.mark.parametrize("balanced", [True, False])
def test_a_group_of_neighbours_holds_what_a_rank_of_a_shorter_ring_would(balanced: bool):
    whole = torch.arange(LENGTH).unsqueeze(0)
    fine, ring, inner = TokenOrder(4, balanced), TokenOrder(2, balanced), TokenOrder(2, balanced)
    for place in range(2):
        group = torch.stack([fine.part(whole, 2 * place + neighbour) for neighbour in range(2)])
        assert torch.equal(inner.whole(group), ring.part(whole, place))
