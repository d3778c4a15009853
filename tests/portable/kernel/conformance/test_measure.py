"""Errors in units that a number format explains."""

import math

import pytest
import torch

from portable.kernel.conformance.measure import coarsest, compare, gradient_sizes, output_sizes, ratio


def units(actual: torch.Tensor, truth: torch.Tensor, scale: float = 0.0) -> float:
    return compare(actual, truth, output_sizes(truth, scale)).units


def test_rounding_once_costs_at_most_one_unit():
    truth = torch.rand(20, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert 0.1 < units(truth.to(dtype), truth) <= 1


def test_an_error_counts_by_the_size_of_its_own_vector():
    truth = torch.tensor([[1000.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    off = truth + torch.tensor([[0.0, 0.0], [0.0, 1e-3]])
    assert units(off.float(), truth) == pytest.approx(1e-3 / 2**-24, rel=1e-3)
    off = truth + torch.tensor([[0.0, 1e-3], [0.0, 0.0]])
    assert units(off.float(), truth) == pytest.approx(1e-6 / 2**-24, rel=1e-3)


def test_what_was_subtracted_may_be_larger_than_the_result():
    truth = torch.zeros(3, dtype=torch.float64)
    actual = torch.full((3,), 1e-6)
    assert units(actual, truth) > 1e30
    assert units(actual, truth, scale=100.0) < 1


def test_infinities_and_nan_stand_where_the_truth_has_them():
    truth = torch.tensor([1.0, -math.inf, math.nan], dtype=torch.float64)
    assert units(truth.float(), truth) == 0
    for place, wrong in ((0, math.inf), (0, math.nan), (1, math.inf), (1, 0.0), (2, 0.0)):
        actual = truth.float()
        actual[place] = wrong
        found = compare(actual, truth, output_sizes(truth, 0.0))
        assert found.units == math.inf
        assert f"at ({place},)" in found.fault


def test_what_overflows_in_the_format_must_overflow():
    truth = torch.tensor([1e6], dtype=torch.float64)
    assert units(truth.half(), truth) == 0
    assert units(torch.tensor([65504.0]).half(), truth) == math.inf


def test_whole_numbers_are_equal_or_wrong():
    truth = torch.tensor([[1, 2], [3, 4]])
    assert units(truth, truth) == 0
    assert "at (1, 0): 5 instead of 3" in compare(torch.tensor([[1, 2], [5, 4]]), truth, 1.0).fault


def test_the_smallest_numbers_of_a_format_are_a_unit_apart():
    truth = torch.tensor([1e-9], dtype=torch.float64)
    assert units(truth.half(), truth) <= 1


def test_gradients_are_measured_by_their_largest_number_and_cancelled_ones_by_their_neighbours():
    gradients = [torch.tensor([3.0, 100.0]), torch.tensor([1e-9]), None, torch.zeros(0)]
    assert gradient_sizes(gradients, []) == [100.0, 800.0, 800.0, 800.0]
    assert gradient_sizes([torch.zeros(2)], [torch.tensor([5.0])]) == [40.0]


def test_a_gradient_may_be_as_coarse_as_the_result():
    truth = torch.ones(4, dtype=torch.float64)
    actual = torch.full((4,), 1 + 2**-9)
    assert coarsest([torch.zeros(1), torch.zeros(1).bfloat16(), torch.zeros(1).long()]) == torch.bfloat16
    assert compare(actual, truth, 1.0, torch.bfloat16).units < 1 < compare(actual, truth, 1.0).units


def test_a_ratio_is_to_the_reference_or_to_one_unit():
    truth = torch.ones(1, dtype=torch.float64)
    exact, off = compare(truth.float(), truth, 1.0), compare(truth.float() + 2**-20, truth, 1.0)
    assert ratio(off, exact) == pytest.approx(16)
    assert ratio(off, off) == 1
    assert ratio(off, exact, 2.0) == pytest.approx(8)
