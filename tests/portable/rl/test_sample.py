import pytest
import torch

from portable.engine.request import Completion, TokenStep
from portable.rl.config import GrpoConfig, LossAggregation
from portable.rl.loss.grpo import GrpoObjective
from portable.rl.sample import Sample, collate, from_json, merge_equal, share_equally, to_json


def answer(*tokens: int, advantage: float = 1.0, prompt: tuple[int, ...] = (5, 6)) -> Sample:
    steps = tuple(TokenStep(token, -0.1 * token) for token in tokens)
    return Sample(prompt, Completion(steps, "text", "stop"), 1.0, advantage)


@pytest.mark.parametrize("aggregation", list(LossAggregation))
def test_collated_rows_weigh_answers_only(aggregation: LossAggregation) -> None:
    short = Sample((5, 6), Completion((TokenStep(7, -0.1),), "a", "stop"), 1.0, 2.0)
    long = Sample(
        (5, 6, 8),
        Completion((TokenStep(7, -0.2), TokenStep(9, -0.3), TokenStep(1, -0.4)), "b", "stop"),
        0.0,
        -1.0,
    )
    batch = collate([short, long], 0, aggregation)
    assert batch.input_ids_BT.tolist() == [[5, 6, 0, 0, 0], [5, 6, 8, 7, 9]]
    assert batch.target_ids_BT.tolist() == [[6, 7, 0, 0, 0], [6, 8, 7, 9, 1]]
    assert (batch.loss_weight_BT > 0).tolist() == [
        [False, True, False, False, False],
        [False, False, True, True, True],
    ]
    assert batch.old_log_probs_BT[1].tolist() == pytest.approx([0, 0, -0.2, -0.3, -0.4])
    terms = 2 if aggregation is LossAggregation.sequence_mean else 4
    assert batch.num_terms == pytest.approx(terms)


def test_equal_answers_become_one_with_a_count() -> None:
    merged = merge_equal([answer(1, 2), answer(3), answer(1, 2), answer(1, 2, advantage=-1.0), answer(3)])
    assert [(s.completion.token_ids, s.advantage, s.count) for s in merged] == [
        ((1, 2), 1.0, 2),
        ((3,), 1.0, 2),
        ((1, 2), -1.0, 1),
    ]


def test_answers_to_other_prompts_stay_apart() -> None:
    assert len(merge_equal([answer(1), answer(1, prompt=(5, 7))])) == 2


@pytest.mark.parametrize("aggregation", list(LossAggregation))
def test_merging_changes_neither_the_loss_nor_its_terms(aggregation: LossAggregation) -> None:
    samples = [answer(1, 2), answer(3, 4, 5, advantage=-0.5), answer(1, 2), answer(1, 2)]
    objective = GrpoObjective(GrpoConfig(kl_coef=0.3), 1.0)
    results = []
    for rows in (samples, merge_equal(samples)):
        batch = collate(rows, 0, aggregation)
        table = torch.linspace(-2, -0.1, 7)
        new = table[batch.target_ids_BT.clamp(max=6)]  # a log-prob for each token, the same in both batches
        results.append((float(objective.loss(new, batch).loss), batch.num_terms))
    assert results[0] == pytest.approx(results[1], rel=1e-6)


def test_ranks_get_equally_many_rows_and_filling_counts_for_nothing() -> None:
    samples = [answer(token) for token in range(1, 8)]
    shares = [share_equally(samples, rank, 3) for rank in range(3)]
    assert [len(share) for share in shares] == [3, 3, 3]
    counted = sorted(s.completion.token_ids for share in shares for s in share if s.count > 0)
    assert counted == [(token,) for token in range(1, 8)]
    assert sum(collate(share, 0, LossAggregation.token_mean).num_terms for share in shares) == 7


def test_a_sample_survives_a_checkpoint() -> None:
    sample = answer(1, 2, advantage=-0.25)
    assert from_json(to_json(sample)) == sample
