"""What a kilobyte tells of a tensor."""

from __future__ import annotations

import math

import pytest
import torch

from portable.trace.summary import NUM_BUCKETS, Summariser, distance, sketch_of, summarise


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(7, 96), (300, 257), (64, 4096), (2, 2_200_000)])
def test_the_distance_is_told_from_the_sketches(shape: tuple[int, ...]) -> None:
    x = noise(*shape)
    moved = x + 1e-3 * noise(*shape, seed=1)
    expected = float((moved - x).norm() / x.norm())
    assert distance(summarise(x), summarise(moved)) == pytest.approx(expected, rel=0.3)


def test_an_error_in_a_single_column_is_told() -> None:
    x = noise(256, 512)
    for column in range(0, 512, 37):
        moved = x.clone()
        moved[:, column] *= 1.01
        expected = float((moved - x).norm() / x.norm())
        assert distance(summarise(x), summarise(moved)) == pytest.approx(expected, rel=0.35)


def test_one_wrong_element_in_a_million_is_told() -> None:
    x = noise(1024, 1024)
    moved = x.clone()
    moved[512, 77] += 1.0
    assert distance(summarise(x), summarise(moved)) == pytest.approx(1 / float(x.norm()), rel=0.01)


def test_equal_bits_have_no_distance_and_other_layouts_are_alike() -> None:
    x = noise(5, 8)
    assert distance(summarise(x), summarise(x.t().contiguous().t())) == 0.0
    assert summarise(x).digest != summarise(x + 1e-7).digest


def test_another_number_format_is_as_far_as_it_rounds() -> None:
    x = noise(64, 64)
    assert 0 < distance(summarise(x), summarise(x.bfloat16())) < 2**-8
    whole = torch.arange(12.0).view(3, 4)
    assert distance(summarise(whole), summarise(whole.bfloat16())) == 0.0


def test_shapes_and_numbers_that_are_not_finite_are_infinitely_far() -> None:
    x = noise(4, 4)
    broken = x.clone()
    broken[0, 0] = math.nan
    assert distance(summarise(x), summarise(x.flatten())) == math.inf
    assert distance(summarise(x), summarise(broken)) == math.inf
    assert distance(summarise(torch.zeros(3)), summarise(torch.ones(3))) == math.inf
    assert summarise(broken).num_nonfinite == 1
    assert summarise(broken).largest < 10


@pytest.mark.parametrize(
    "x", [torch.zeros(0, 4), torch.tensor(2.5), torch.tensor([3, -4]), torch.tensor([True])]
)
def test_sizes_0_and_1_and_whole_numbers_are_summarised(x: torch.Tensor) -> None:
    summary = summarise(x)
    assert summary.shape == tuple(x.shape)
    assert summary.norm == pytest.approx(float(x.double().norm()))
    assert summary.sketch.shape == (NUM_BUCKETS,)


def test_the_signs_never_change() -> None:
    # Recordings of older versions are compared with these.
    assert sketch_of(torch.ones(3, dtype=torch.float64))[:4].tolist() == [-1.0, -1.0, 1.0, 0.0]
    assert float(sketch_of(torch.ones(100_000, dtype=torch.float64)).sum()) == -312.0


def test_a_remembered_tensor_is_summarised_again_once_it_has_changed() -> None:
    summarise_once = Summariser()
    x = noise(8)
    first = summarise_once(x)
    assert summarise_once(x.view_as(x)) is first
    x.add_(1.0)
    assert summarise_once(x).digest == summarise(x).digest != first.digest
