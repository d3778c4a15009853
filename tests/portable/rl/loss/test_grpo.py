import math

import pytest
import torch
from torch import nn

from portable.core.errors import ShapeError
from portable.core.record import Batch
from portable.rl.batch import RolloutBatch
from portable.rl.config import GrpoConfig
from portable.rl.loss.grpo import GrpoObjective


def batch_of(
    old: torch.Tensor, advantages: torch.Tensor, weight: torch.Tensor, ref: torch.Tensor | None = None
) -> RolloutBatch:
    ids = torch.zeros(old.shape, dtype=torch.long)
    return RolloutBatch(
        input_ids_BT=ids,
        target_ids_BT=ids,
        loss_weight_BT=weight,
        position_ids_BT=ids,
        advantages_BT=advantages,
        old_log_probs_BT=old,
        ref_log_probs_BT=old.clone() if ref is None else ref,
    )


def by_hand(new, old, ref, advantage, weight, config: GrpoConfig) -> float:
    total = 0.0
    for n, o, r, a, w in zip(
        new.flatten().tolist(),
        old.flatten().tolist(),
        ref.flatten().tolist(),
        advantage.flatten().tolist(),
        weight.flatten().tolist(),
        strict=True,
    ):
        if w == 0:
            continue
        ratio = math.exp(n - o)
        clipped = min(max(ratio, 1 - config.clip_low), 1 + config.clip_high)
        divergence = math.exp(r - n) - (r - n) - 1
        total += w * (config.kl_coef * divergence - min(ratio * a, clipped * a))
    return total


def random_case(seed: int):
    generator = torch.Generator().manual_seed(seed)
    old, ref = (-torch.rand(4, 6, generator=generator, dtype=torch.float64) * 3 for _ in range(2))
    new = old + 0.3 * torch.randn(4, 6, generator=generator, dtype=torch.float64)
    advantage = torch.randn(4, 1, generator=generator, dtype=torch.float64).expand(4, 6)
    weight = (torch.rand(4, 6, generator=generator, dtype=torch.float64) > 0.4) / 3
    return new, old, ref, advantage, weight


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("config", [GrpoConfig(), GrpoConfig(clip_low=0.1, clip_high=0.28, kl_coef=0.5)])
def test_equals_the_formula_token_by_token(seed: int, config: GrpoConfig) -> None:
    new, old, ref, advantage, weight = random_case(seed)
    got = GrpoObjective(config, 1.0).loss(new, batch_of(old, advantage, weight, ref))
    assert float(got.loss) == pytest.approx(by_hand(new, old, ref, advantage, weight, config), rel=1e-12)


def test_on_policy_the_gradient_is_that_of_reinforce() -> None:
    _, old, _, advantage, weight = random_case(3)
    new = old.clone().requires_grad_()
    loss = GrpoObjective(GrpoConfig(kl_coef=0.0), 1.0).loss(new, batch_of(old, advantage, weight)).loss
    (got,) = torch.autograd.grad(loss, new)
    assert torch.allclose(got, -advantage * weight, atol=1e-12)


def test_a_clipped_token_gives_no_gradient() -> None:
    old = torch.zeros(1, 2, dtype=torch.float64)
    new = torch.tensor([[0.5, 0.05]], dtype=torch.float64, requires_grad=True)
    ones = torch.ones(1, 2, dtype=torch.float64)
    result = GrpoObjective(GrpoConfig(kl_coef=0.0), 1.0).loss(new, batch_of(old, ones, ones))
    (gradient,) = torch.autograd.grad(result.loss, new)
    assert gradient[0, 0] == 0
    assert gradient[0, 1] < 0
    assert float(result.metrics["clip_fraction"]) == 1.0


def test_tokens_of_weight_zero_do_not_count_even_if_they_are_infinite() -> None:
    old = torch.tensor([[-1.0, 0.0]])
    new = torch.tensor([[-1.0, float("-inf")]], requires_grad=True)
    weight = torch.tensor([[1.0, 0.0]])
    result = GrpoObjective(GrpoConfig(), 1.0).loss(new, batch_of(old, torch.ones(1, 2), weight))
    assert torch.isfinite(result.loss)


def test_a_plain_batch_is_refused() -> None:
    ids = torch.zeros(1, 2, dtype=torch.long)
    with pytest.raises(ShapeError, match="advantages"):
        GrpoObjective(GrpoConfig(), 1.0)(nn.Identity(), Batch(ids, ids, torch.ones(1, 2), ids))
