"""The record that ranks compare. Who is named, and when, is in tests/contract."""

from __future__ import annotations

import pytest
import torch

from portable.collective.guard import OutOfStepError, RollCall


class Control:
    """A host group of three ranks: the others' records are what ``others`` makes of the own one."""

    def __init__(self, *others: RollCall | None) -> None:
        self.others = others

    def size(self) -> int:
        return 1 + len(self.others)

    def all_gather_single(self, received: torch.Tensor, sent: torch.Tensor) -> Control:
        rows = [sent, *(sent if other is None else other._sent for other in self.others)]
        received.copy_(torch.cat(rows))
        return self

    def wait(self) -> None:
        """Nothing is under way."""


def rank_saying(text: str, number: float = 0.0) -> RollCall:
    roll = RollCall(Control(), str)
    roll.text = text
    roll.numbers(number)
    return roll


def roll_with(*others: RollCall | None) -> RollCall:
    roll = RollCall(Control(*others), lambda rank: f"rank {rank}")
    roll.text = "all_reduce sum of float32 (2) as call 7"
    return roll


def test_equal_texts_pass_and_carry_numbers():
    roll = roll_with(rank_saying("all_reduce sum of float32 (2) as call 7", 2.5), None)
    roll.compare()
    assert roll.numbers(-1.25) == [-1.25, 2.5, -1.25]
    assert roll_with(None, None).counts(2**53 + 1) == [2**53 + 1] * 3


def test_the_smaller_party_is_named_first():
    roll = roll_with(rank_saying("barrier as call 7"), None)
    with pytest.raises(OutOfStepError) as raised:
        roll.compare()
    assert str(raised.value) == (
        "rank 1 calls barrier as call 7; rank 0, rank 2 calls all_reduce sum of float32 (2) as call 7"
    )


def test_a_difference_beyond_the_record_is_found():
    long = "all_gather uneven " + "x" * 300
    roll = roll_with(rank_saying(long + "1"))
    roll.text = long + "2"
    with pytest.raises(OutOfStepError):
        roll.compare()
    same = roll_with(rank_saying(long + "2"))
    same.text = long + "2"
    same.compare()
