"""Drawing tokens: exact distributions, cuts, seeds, log-probs."""

import math

import numpy as np
import pytest
import torch

from portable.core.errors import PortableError
from portable.engine.native.sampler import SamplingRows, counter_uniforms, draw, draw_uniforms
from portable.engine.request import Request
from tests.portable.engine.support import ask

CPU = torch.device("cpu")
PROBS = torch.tensor([0.1, 0.4, 0.05, 0.25, 0.2])


def rows(requests: list[Request], num_drawn: list[int] | None = None) -> SamplingRows:
    return SamplingRows.of(requests, num_drawn or [0] * len(requests), CPU)


def frequencies(num_draws: int, probs: torch.Tensor = PROBS, **settings: float) -> torch.Tensor:
    """Shares of each token over many seeds, from probabilities ``probs``."""
    requests = [ask([1], seed=seed, **settings) for seed in range(num_draws)]
    steps = draw(probs.log().expand(num_draws, -1), rows(requests))
    counts = torch.bincount(torch.tensor([step.token_id for step in steps]), minlength=len(probs))
    return counts / num_draws


def assert_close_to(shares: torch.Tensor, expected: torch.Tensor, num_draws: int) -> None:
    """Five standard errors: a right sampler fails once in a million runs, and these seeds are fixed."""
    assert bool(((shares - expected).abs() <= 5 * (expected * (1 - expected) / num_draws).sqrt()).all())


def test_draws_follow_the_distribution() -> None:
    assert_close_to(frequencies(20_000), PROBS, 20_000)


def test_temperature_sharpens_and_flattens() -> None:
    for temperature in (0.5, 2.0):
        expected = (PROBS.log() / temperature).softmax(-1)
        assert_close_to(frequencies(20_000, temperature=temperature), expected, 20_000)


def test_top_k_keeps_the_best_and_renormalises() -> None:
    expected = torch.tensor([0.0, 0.4, 0.0, 0.25, 0.2])
    assert_close_to(frequencies(20_000, top_k=3), expected / expected.sum(), 20_000)


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    expected = torch.tensor([0.0, 0.4, 0.0, 0.25, 0.0])
    assert_close_to(frequencies(20_000, top_p=0.6), expected / expected.sum(), 20_000)
    assert_close_to(frequencies(20_000, top_p=0.3), torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0]), 20_000)


def test_top_p_counts_within_what_top_k_left() -> None:
    # Of 0.4, 0.25, 0.2 the first has 0.47 of the mass: enough for 0.45. Without top-k it would not be.
    expected = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0])
    assert_close_to(frequencies(5_000, top_k=3, top_p=0.45), expected, 5_000)


def test_a_token_without_probability_is_never_drawn() -> None:
    probs = torch.tensor([0.0, 0.5, 0.0, 0.5, 0.0])
    shares = frequencies(5_000, probs)
    assert shares[[0, 2, 4]].sum() == 0


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24, 1.0])
def test_the_edges_of_the_unit_interval_stay_inside(uniform: float) -> None:
    logits = torch.tensor([[-math.inf, 0.0, 1.0, -math.inf]])
    edge = SamplingRows(
        temperature_N=torch.ones(1),
        top_k_N=torch.zeros(1, dtype=torch.int64),
        top_p_N=torch.ones(1),
        uniform_N=torch.tensor([uniform]),
        num_top=0,
        any_greedy=False,
        all_greedy=False,
        any_cut=False,
    )
    assert draw(logits, edge)[0].token_id == (1 if uniform == 0 else 2)


def test_greedy_takes_the_best_and_reports_its_plain_log_prob() -> None:
    step = draw(PROBS.log()[None], rows([ask([1], temperature=0)]))[0]
    assert step.token_id == 1
    assert step.log_prob == pytest.approx(math.log(0.4), abs=1e-6)


def test_log_prob_is_after_temperature_and_before_the_cuts() -> None:
    step = draw(PROBS.log()[None], rows([ask([1], temperature=0.5, top_k=1, top_p=0.1)]))[0]
    expected = (PROBS.log() / 0.5).log_softmax(-1)[1]
    assert step.token_id == 1
    assert step.log_prob == pytest.approx(float(expected), abs=1e-6)


def test_one_batch_mixes_all_kinds_of_requests() -> None:
    requests = [
        ask([1], temperature=0),
        ask([1], seed=1),
        ask([1], seed=1, top_k=1),
        ask([1], seed=1, top_p=0.2),
    ]
    tokens = [step.token_id for step in draw(PROBS.log().expand(4, -1), rows(requests))]
    alone = draw(PROBS.log()[None], rows([requests[1]]))[0].token_id
    assert tokens == [1, alone, 1, 1]


def test_alternatives_are_the_best_in_order() -> None:
    requests = [ask([1], seed=0, num_top_log_probs=3), ask([1], seed=1)]
    top = draw(PROBS.log().expand(2, -1), rows(requests))[0].top
    assert [token for token, _ in top] == [1, 3, 4]
    assert [math.exp(log_prob) for _, log_prob in top] == pytest.approx([0.4, 0.25, 0.2], abs=1e-6)


def test_more_alternatives_than_tokens_gives_all_tokens() -> None:
    step = draw(PROBS.log()[None], rows([ask([1], num_top_log_probs=50)]))[0]
    assert len(step.top) == 5


def test_half_precision_logits_are_computed_in_single() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.5]], dtype=torch.bfloat16)
    step = draw(logits, rows([ask([1], temperature=0)]))[0]
    assert step.log_prob == pytest.approx(float(logits.float().log_softmax(-1)[0, 0]), abs=1e-6)


def test_a_seeded_row_does_not_depend_on_its_company() -> None:
    logits = torch.randn(8, 50, generator=torch.Generator().manual_seed(0))
    requests = [ask([1], seed=seed) for seed in range(8)]
    together = draw(logits, rows(requests))
    for index in range(8):
        torch.manual_seed(index)  # the host's stream must not matter
        alone = draw(logits[index : index + 1], rows([requests[index]]))[0]
        assert alone.token_id == together[index].token_id


def test_an_unseeded_row_does_not_disturb_seeded_ones_and_follows_the_host_stream() -> None:
    torch.manual_seed(5)
    mixed = draw_uniforms([1, None, 2, None], [0, 0, 0, 0])
    torch.manual_seed(5)
    own = torch.rand(2, dtype=torch.float64).float()
    assert torch.equal(mixed[[1, 3]], own)
    assert torch.equal(mixed[[0, 2]], draw_uniforms([1, 2], [0, 0]))


def test_each_token_of_a_seeded_request_has_its_own_number() -> None:
    numbers = draw_uniforms([3] * 100, list(range(100)))
    assert len(set(numbers.tolist())) == 100


def test_seeds_of_any_size_and_sign_are_taken() -> None:
    numbers = draw_uniforms([0, -1, 2**70 + 5, 2**63], [0] * 4).tolist()
    assert all(0 <= number < 1 for number in numbers)
    assert len(set(numbers)) == 4


def test_counter_numbers_are_uniform_and_uncorrelated() -> None:
    seeds, counters = np.meshgrid(np.arange(200, dtype=np.uint64), np.arange(200, dtype=np.uint64))
    grid = counter_uniforms(seeds, counters)
    assert grid.min() >= 0
    assert grid.max() < 1
    assert abs(grid.mean() - 0.5) < 0.01
    assert abs(grid.var() - 1 / 12) < 0.005
    for neighbours in (grid[1:], grid[:, 1:]):
        base = grid[: neighbours.shape[0], : neighbours.shape[1]]
        assert abs(np.corrcoef(base.ravel(), neighbours.ravel())[0, 1]) < 0.03


def test_logits_that_are_no_numbers_are_an_error() -> None:
    logits = torch.tensor([[math.nan, 1.0, 2.0]])
    for request in (ask([1], seed=0), ask([1], temperature=0), ask([1], seed=0, top_k=2)):
        with pytest.raises(PortableError, match="logits are not finite"):
            draw(logits, rows([request]))
