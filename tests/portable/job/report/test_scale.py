"""Axes: round ticks that hold the data, honest labels, labels that do not overlap."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portable.job.report.scale import fit_scale, smooth, spread

numbers = st.floats(-1e6, 1e6)


def test_scale_begins_and_ends_at_round_values():
    scale = fit_scale([1.3, 8.4])
    assert scale.ticks == (0.0, 2.0, 4.0, 6.0, 8.0, 10.0)
    assert (scale.low, scale.high) == (0.0, 10.0)


def test_tight_scale_ends_at_the_data_and_keeps_inner_ticks():
    scale = fit_scale([1, 320], tight=True)
    assert (scale.low, scale.high) == (1, 320)
    assert scale.ticks == (100.0, 200.0, 300.0)
    assert scale.percent(1) == 0
    assert scale.percent(320) == 100


def test_include_brings_values_into_view():
    assert fit_scale([3.0, 3.5], include=(0.0,)).low == 0


def test_percent_is_linear_and_stays_inside():
    scale = fit_scale([0, 10])
    assert [scale.percent(value) for value in (0, 2.5, 10, 11, -3)] == [0, 25, 100, 100, 0]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0, 1], ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ([0, 0.04], ["0.00", "0.01", "0.02", "0.03", "0.04"]),
        ([0, 4000], ["0", "1,000", "2,000", "3,000", "4,000"]),
        ([0, 20000], ["0", "5k", "10k", "15k", "20k"]),
        ([-2, 2], ["-2", "-1", "0", "1", "2"]),
    ],
)
def test_labels_have_the_decimals_that_ticks_need(values: list[float], labels: list[str]):
    scale = fit_scale(values)
    assert [scale.label(tick) for tick in scale.ticks] == labels


@pytest.mark.parametrize("values", [[], [3.0], [0.0, 0.0], [math.nan, math.inf], [1e-9, 1e-9]])
def test_degenerate_data_still_has_an_axis(values: list[float]):
    scale = fit_scale(values)
    assert scale.low < scale.high
    assert len(scale.ticks) >= 2


@given(st.lists(numbers, min_size=1, max_size=30))
def test_scale_holds_every_value(values: list[float]):
    scale = fit_scale(values)
    margin = 1e-6 * (scale.high - scale.low)
    assert scale.low - margin <= min(values)
    assert max(values) <= scale.high + margin
    assert 2 <= len(scale.ticks) <= 12


def test_smooth_keeps_a_line_and_follows_a_steep_start():
    assert smooth([2.0] * 9, 3) == pytest.approx([2.0] * 9)
    rising = [float(n) for n in range(20)]
    assert smooth(rising, 4)[:16] == pytest.approx(rising[:16])


def test_smooth_halves_noise_and_ends_with_a_mean():
    noisy = [(-1.0) ** n for n in range(100)]
    course = smooth(noisy, 10)
    assert max(map(abs, course[10:])) < 0.11
    assert smooth([], 3) == []
    assert smooth([1.0, 2.0], 0) == [1.0, 2.0]


def test_spread_leaves_distant_labels_alone():
    assert spread([10, 50, 90], 17, 0, 100) == [10, 50, 90]


def test_spread_moves_close_labels_apart_about_their_middle():
    assert spread([50, 52], 10, 0, 100) == pytest.approx([46, 56])
    assert spread([52, 50], 10, 0, 100) == pytest.approx([56, 46])


@given(st.lists(st.floats(-50, 150), max_size=8))
def test_spread_keeps_gap_order_and_bounds(places: list[float]):
    moved = spread(places, 10, 0, 100)
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in moved)
    order = sorted(range(len(places)), key=lambda index: places[index])
    ordered = [moved[index] for index in order]
    assert all(b - a >= 10 - 1e-6 for a, b in pairwise(ordered))


def test_spread_shrinks_the_gaps_when_there_is_no_room():
    moved = spread([5.0] * 11, 20, 0, 100)
    assert moved == pytest.approx([10 * n for n in range(11)])
