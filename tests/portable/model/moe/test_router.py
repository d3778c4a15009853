import itertools

import pytest
import torch

from portable.model.config import Gate, MoeConfig
from portable.model.moe.router import Router


def router_of(kernels, **changes):
    config = MoeConfig(**({"num_experts": 6, "top_k": 2} | changes))
    router = Router(4, config, kernels)
    torch.nn.init.normal_(router.weight, generator=torch.Generator().manual_seed(0))
    return router


X = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))


def test_softmax_weights_are_the_largest_probabilities(kernels):
    for renormalize in (True, False):
        router = router_of(kernels, renormalize=renormalize)
        weights, experts = router.choose(router(X))
        expected = (X @ router.weight.T).softmax(-1).topk(2)
        assert torch.equal(experts, expected.indices)
        total = expected.values.sum(-1, keepdim=True) if renormalize else 1.0
        torch.testing.assert_close(weights, expected.values / total)
    assert router.bias is None


def test_bias_changes_the_choice_but_no_weight(kernels):
    router = router_of(kernels, gate=Gate.sigmoid, routed_scale=2.5, renormalize=False)
    logits = router(X)
    _, before = router.choose(logits)
    router.bias[3] = 10.0
    weights, after = router.choose(logits)
    assert not (before == 3).any(-1).all()
    assert (after == 3).any(-1).all()
    torch.testing.assert_close(weights, 2.5 * logits.sigmoid().gather(-1, after))


def test_groups_equal_a_search_over_all_choices(kernels):
    router = router_of(
        kernels, num_experts=8, top_k=3, gate=Gate.sigmoid, num_groups=4, top_k_groups=2, routed_scale=2.5
    )
    router.bias.normal_(-2, 0.5, generator=torch.Generator().manual_seed(2))
    logits = router(X)
    weights, experts = router.choose(logits)
    scores = logits.sigmoid() + router.bias
    for row, chosen in zip(scores, experts, strict=True):
        best = max(
            itertools.combinations(range(4), 2),
            key=lambda groups: sum(row[2 * group : 2 * group + 2].sum().item() for group in groups),
        )
        allowed = [expert for group in best for expert in (2 * group, 2 * group + 1)]
        assert chosen.tolist() == sorted(allowed, key=lambda expert: -row[expert].item())[:3]
    torch.testing.assert_close(weights.sum(-1), torch.full((50,), 2.5))


def test_one_group_of_all_is_the_plain_gate(kernels):
    plain = router_of(kernels, gate=Gate.sigmoid, routed_scale=2.0)
    grouped = router_of(kernels, gate=Gate.sigmoid, routed_scale=2.0, num_groups=2, top_k_groups=2)
    for ours, theirs in zip(grouped.choose(plain(X)), plain.choose(plain(X)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


def test_logits_stay_in_float32_under_autocast_and_in_16_bits(kernels):
    router = router_of(kernels)
    exact = router(X)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(router(X), exact)
    half = router.to(torch.bfloat16)(X.bfloat16())
    assert half.dtype == torch.float32


@pytest.mark.parametrize("gate", list(Gate))
def test_scores_share_a_token_out(kernels, gate):
    router = router_of(kernels, gate=gate)
    torch.testing.assert_close(router.scores(router(X)).sum(-1), torch.ones(50))
