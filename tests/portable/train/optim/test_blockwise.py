"""Eight bits a number: near enough, the same when done twice, and no zero where there was none."""

import pytest
import torch

from portable.train.optim.blockwise import Codebook

SIGNED, UNSIGNED = Codebook(signed=True), Codebook(signed=False)


@pytest.mark.parametrize(("codebook", "count"), [(SIGNED, 255), (UNSIGNED, 256)])
def test_values_are_distinct_and_reach_from_one_down_seven_powers_of_ten(codebook: Codebook, count: int):
    assert len(codebook.values.unique()) == count
    assert codebook.values.max() == 1
    assert codebook.values.min() == (-1 if codebook.signed else 0)
    assert codebook.values[codebook.values > 0].min() == pytest.approx(1e-6 if codebook.signed else 1e-7)


def numbers(codebook: Codebook, count: int, power: float = 1.0) -> torch.Tensor:
    values = torch.randn(count, generator=torch.Generator().manual_seed(0)) * 10.0**power
    return values if codebook.signed else values**2


@pytest.mark.parametrize("codebook", [SIGNED, UNSIGNED])
@pytest.mark.parametrize("power", [-12.0, 0.0, 5.0])
def test_what_was_quantised_once_stays_what_it_is(codebook: Codebook, power: float):
    values = numbers(codebook, 1000, power)
    codes, scales = codebook.encode(values, 64)
    once = codebook.decode(codes, scales, 64)
    again, same_scales = codebook.encode(once, 64)
    assert torch.equal(codes, again)
    assert torch.equal(scales, same_scales)


@pytest.mark.parametrize("codebook", [SIGNED, UNSIGNED])
def test_every_value_is_its_own_nearest(codebook: Codebook):
    codes, scales = codebook.encode(codebook.values, 256)
    assert codes.tolist() == list(range(len(codebook.values)))
    assert scales.tolist() == [1.0]


@pytest.mark.parametrize("codebook", [SIGNED, UNSIGNED])
def test_each_number_gets_the_nearest_value_of_its_block(codebook: Codebook):
    values = numbers(codebook, 512)
    codes, scales = codebook.encode(values, 256)
    found = codebook.decode(codes, scales, 256)
    all_values = (codebook.values * scales.repeat_interleave(256)[:, None]).double()
    nearest = (all_values - values.double()[:, None]).abs().min(dim=1).values
    rounding = 2.0**-7 * values.double().abs()  # a number is looked up by its first 16 bits
    assert ((found.double() - values.double()).abs() <= nearest + rounding).all()
    large = values.abs() > 0.1 * scales.repeat_interleave(256)
    assert ((found - values)[large].abs() / values[large].abs()).max() < 0.07


def test_the_largest_of_a_block_is_kept_on_either_side_of_zero():
    values = torch.tensor([-3.0, 1.0, 0.0, 2.5])
    assert SIGNED.decode(*SIGNED.encode(values, 4), 4)[0] == -3.0


def test_an_unsigned_number_above_zero_never_becomes_zero():
    values = torch.tensor([1.0, 1e-20, 0.0, 1e-9])
    found = UNSIGNED.decode(*UNSIGNED.encode(values, 4), 4)
    assert found.tolist() == pytest.approx([1.0, 1e-7, 0.0, 1e-7])


def test_a_block_of_zeros_or_of_nearly_nothing_is_zero():
    for codebook in (SIGNED, UNSIGNED):
        codes, scales = codebook.encode(torch.tensor([0.0, 0.0, 1e-31, 0.0]), 2)
        assert codebook.decode(codes, scales, 2).tolist() == [0.0] * 4


def test_what_is_not_finite_does_not_hide():
    codes, scales = SIGNED.encode(torch.tensor([1.0, float("nan"), 2.0, 2.0]), 2)
    assert SIGNED.decode(codes, scales, 2).isnan().tolist() == [True, True, False, False]


def test_the_last_block_may_be_short():
    values = numbers(SIGNED, 5)
    codes, scales = SIGNED.encode(values, 4)
    assert (codes.shape, scales.shape) == ((5,), (2,))
    assert SIGNED.decode(codes, scales, 4)[4] == values[4]
