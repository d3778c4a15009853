import pytest
import torch

from portable.rl.advantage import group_relative


def test_divides_by_the_unbiased_deviation() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]])
    advantages = group_relative(rewards)
    for row, got in zip(rewards.tolist(), advantages.tolist(), strict=True):
        mean = sum(row) / 4
        deviation = (sum((value - mean) ** 2 for value in row) / 3) ** 0.5
        assert got == pytest.approx([(value - mean) / (deviation + 1e-6) for value in row], rel=1e-5)


def test_without_scaling_the_spread_stays() -> None:
    rewards = torch.tensor([[4.0, 0.0], [1.0, 0.0]])
    assert group_relative(rewards, scale_by_std=False).tolist() == [[2.0, -2.0], [0.5, -0.5]]


def test_a_group_of_equal_rewards_has_no_advantage() -> None:
    advantages = group_relative(torch.ones(2, 8))
    assert torch.equal(advantages, torch.zeros(2, 8))


def test_advantages_of_a_group_sum_to_zero() -> None:
    rewards = torch.rand(5, 16, generator=torch.Generator().manual_seed(0))
    assert group_relative(rewards).sum(dim=1).abs().max() < 1e-4
