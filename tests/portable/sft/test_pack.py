import pytest
from hypothesis import given
from hypothesis import strategies as st

from portable.sft.pack import pack_best_fit


def test_an_item_goes_where_it_leaves_the_least_room():
    # 6 and 5 open rows of 10; the 4 fits both and fills the first.
    assert pack_best_fit([5, 4, 6], 10) == [[0], [1, 2]]


def test_an_item_that_cannot_fit_is_an_error():
    with pytest.raises(ValueError, match="item 1 of length 11"):
        pack_best_fit([3, 11], 10)


def test_there_may_be_nothing_to_pack():
    assert pack_best_fit([], 10) == []


@given(st.lists(st.integers(1, 32), max_size=60))
def test_every_item_stands_in_one_row_and_rows_hold(lengths: list[int]):
    rows = pack_best_fit(lengths, 32)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= 32 for row in rows)
    assert rows == pack_best_fit(lengths, 32)
    # No two rows could have been one: that alone bounds waste to a half.
    loads = sorted(sum(lengths[index] for index in row) for row in rows)
    assert len(loads) < 2 or loads[0] + loads[1] > 32
