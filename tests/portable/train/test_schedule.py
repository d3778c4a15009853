from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portable.train.config import Decay, ScheduleConfig
from portable.train.schedule import lr_factor


def factors(steps: int, config: ScheduleConfig) -> list[float]:
    return [lr_factor(step, steps, config) for step in range(steps)]


def test_warm_up_rises_evenly_to_one():
    config = ScheduleConfig(decay=Decay.constant, warmup_steps=4)
    assert factors(6, config) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_linear_falls_evenly_towards_the_floor():
    config = ScheduleConfig(decay=Decay.linear, warmup_steps=0, min_factor=0.0)
    assert factors(4, config) == [1.0, 0.75, 0.5, 0.25]


def test_cosine_is_halfway_in_the_middle():
    config = ScheduleConfig(decay=Decay.cosine, warmup_steps=2, min_factor=0.2)
    values = factors(12, config)
    assert values[2] == 1.0
    assert values[7] == pytest.approx(0.6)
    assert values[-1] == pytest.approx(0.2 + 0.8 * 0.0244717, abs=1e-5)


def test_wsd_stays_and_then_falls():
    config = ScheduleConfig(decay=Decay.wsd, warmup_steps=0, min_factor=0.0, decay_fraction=0.4)
    assert factors(10, config) == pytest.approx([1.0] * 7 + [0.75, 0.5, 0.25])


def test_wsd_sqrt_falls_steeply_at_first():
    config = ScheduleConfig(decay=Decay.wsd_sqrt, warmup_steps=0, min_factor=0.0, decay_fraction=0.4)
    assert factors(10, config) == pytest.approx([1.0] * 7 + [0.5, 1 - 0.5**0.5, 1 - 0.75**0.5])


def test_a_warm_up_longer_than_the_run_is_followed_as_far_as_it_goes():
    assert factors(3, ScheduleConfig(decay=Decay.cosine, warmup_steps=10)) == [0.1, 0.2, 0.3]


@given(
    decay=st.sampled_from(list(Decay)),
    warmup=st.integers(0, 20),
    steps=st.integers(1, 60),
    floor=st.floats(0, 1),
    fraction=st.floats(0.01, 1),
)
def test_factors_are_positive_bounded_and_never_rise_after_warm_up(
    decay: Decay, warmup: int, steps: int, floor: float, fraction: float
):
    config = ScheduleConfig(decay=decay, warmup_steps=warmup, min_factor=floor, decay_fraction=fraction)
    values = factors(steps, config)
    assert all(0 < value <= 1 for value in values)
    after = values[warmup:]
    assert all(later <= earlier for earlier, later in pairwise(after))
    assert all(value >= floor - 1e-12 for value in after)
