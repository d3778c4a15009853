import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portable.eval.interval import bootstrap_mean, bootstrap_ratio, wilson


def test_wilson_agrees_with_published_values():
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
    for successes, count, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        estimate = wilson(successes, count)
        assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=5e-5)
        assert (estimate.value, estimate.count) == (successes / count, count)


@given(st.integers(1, 500).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_wilson_bounds_the_value_and_is_symmetric(case: tuple[int, int]):
    successes, count = case
    estimate, mirrored = wilson(successes, count), wilson(count - successes, count)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((estimate.low, estimate.high))


@pytest.mark.parametrize(("successes", "count"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_is_no_proportion(successes: int, count: int):
    with pytest.raises(ValueError, match="no proportion"):
        wilson(successes, count)


def test_the_bootstrap_of_a_mean_is_near_the_normal_interval():
    rng = random.Random(0)
    values = [rng.gauss(3, 2) for _ in range(400)]
    estimate = bootstrap_mean(values, seed=0, num_resamples=4000)
    mean = sum(values) / 400
    half = 1.96 * (sum((value - mean) ** 2 for value in values) / 400) ** 0.5 / 20
    assert estimate.value == pytest.approx(mean)
    assert estimate.low == pytest.approx(mean - half, abs=0.03)
    assert estimate.high == pytest.approx(mean + half, abs=0.03)


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = random.Random(1)
    hits = 0
    for trial in range(200):
        estimate = bootstrap_mean([rng.random() for _ in range(60)], seed=trial, num_resamples=300)
        hits += estimate.low <= 0.5 <= estimate.high
    assert 178 <= hits <= 199


def test_a_ratio_weighs_items_by_their_denominators():
    estimate = bootstrap_ratio([1.0, 30.0], [1.0, 10.0], seed=0)
    assert estimate.value == pytest.approx(31 / 11)
    assert estimate.low == pytest.approx(1.0)
    assert estimate.high == pytest.approx(3.0)


def test_the_seed_decides():
    values = [float(number**2 % 17) for number in range(50)]
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


def test_no_items_make_no_estimate():
    with pytest.raises(ValueError, match="make no ratio"):
        bootstrap_mean([], seed=0)
    with pytest.raises(ValueError, match="1 numerators and 2 denominators"):
        bootstrap_ratio([1.0], [1.0, 2.0], seed=0)
