"""Exact shares, at every length; a place found without a history; sources that run dry."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portable.data.mixture.interleave import Interleave, Schedule

weights = st.lists(st.integers(1, 50).map(lambda n: Fraction(n, 100)), min_size=1, max_size=9)


@settings(max_examples=50, deadline=None)
@given(weights)
def test_each_sample_has_one_place_and_shares_hold_at_every_length(shares: list[Fraction]):
    interleave = Interleave(shares)
    seen = [0] * len(shares)
    levels = (len(shares) - 1).bit_length()
    for sample in range(300):
        source, before = interleave.place(sample)
        assert before == seen[source]
        seen[source] += 1
        for k, share in enumerate(shares):
            assert interleave.count(k, sample + 1) == seen[k]
            assert abs(seen[k] - (sample + 1) * share / sum(shares)) <= Fraction(levels, 2)


def test_nothing_drifts_over_a_trillion_samples():
    shares = [Fraction(str(weight)) for weight in (0.7, 0.2, 0.1)]
    interleave, far = Interleave(shares), 10**12
    assert [interleave.count(k, far) for k in range(3)] == [7 * 10**11, 2 * 10**11, 10**11]
    source, before = interleave.place(far)
    assert before == interleave.count(source, far)
    assert interleave.count(source, far + 1) == before + 1


@settings(max_examples=50, deadline=None)
@given(weights, st.integers(0, 40))
def test_reach_is_where_the_next_sample_would_be_asked_for(shares: list[Fraction], count: int):
    interleave = Interleave(shares)
    for source in range(len(shares)):
        assert interleave.place(interleave.reach(source, count)) == (source, count)


def simulate(shares: list[Fraction], limits: list[int | None], schedule: Schedule) -> list[int]:
    """Follow the schedule to its end, or for 400 samples; return what each source gave."""
    seen = [0] * len(shares)
    for sample in range(400 if schedule.num_samples is None else schedule.num_samples):
        assert schedule.counts(sample) == seen
        source, before = schedule.place(sample)
        assert before == seen[source]
        seen[source] += 1
        limit = limits[source]
        assert limit is None or seen[source] <= limit
    return seen


@settings(max_examples=50, deadline=None)
@given(weights, st.data())
def test_a_source_gives_its_limit_and_no_more(shares: list[Fraction], data: st.DataObject):
    limit = st.one_of(st.none(), st.integers(1, 30))
    limits = data.draw(st.lists(limit, min_size=len(shares), max_size=len(shares)))
    schedule = Schedule(shares, limits)
    seen = simulate(shares, limits, schedule)
    finite = [limit for limit in limits if limit is not None]
    if len(finite) == len(limits):
        assert seen == limits
        assert schedule.num_samples == sum(finite)
        assert sorted(source for _, source in schedule.dry) == list(range(len(limits)))
    else:
        assert schedule.num_samples is None


def test_the_weight_of_a_dry_source_goes_to_the_others_in_their_proportion():
    shares = [Fraction(1, 2), Fraction(3, 8), Fraction(1, 8)]
    schedule = Schedule(shares, [10, None, None])
    assert schedule.counts(8) == [4, 3, 1]
    (start, source), *rest = schedule.dry
    assert (source, rest) == (0, [])
    assert start == pytest.approx(20, abs=2)
    counts = schedule.counts(start)
    later = schedule.counts(start + 400)
    assert [after - before for after, before in zip(later, counts, strict=True)] == [0, 300, 100]
