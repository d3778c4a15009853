"""Rollouts from an engine whose answers are known."""

from collections.abc import Sequence

import pytest
import torch

from portable.data.task.arithmetic import ArithmeticTask
from portable.engine.request import Completion, Request, TokenStep
from portable.rl.config import GrpoConfig, RlConfig
from portable.rl.rollout import RolloutSource


class FakeTokenizer:
    """One id a character; 1 ends a turn, 0 pads."""

    pad_token_id = 0
    stop_token_ids = (1,)
    special_tokens = ()
    settings: dict[str, str] = {}  # noqa: RUF012
    chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        return [ord(char) for char in text]


class FakeEngine:
    """Answers "3+4=" with "07" when the request's seed is even, else with "99"."""

    max_seq_len = 64
    tokenizer = FakeTokenizer()

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        done = []
        for request in requests:
            a, b = "".join(map(chr, request.prompt_ids)).rstrip("=").split("+")
            right = (request.sampling.seed or 0) % 2 == 0
            text = f"{int(a) + int(b):02d}" if right else "99"
            steps = (*(TokenStep(ord(char), -0.5) for char in text), TokenStep(1, -0.1))
            done.append(Completion(steps, text, "stop"))
        return done


def source_of(**settings) -> RolloutSource:
    config = RlConfig(
        steps=1,
        model_path="m",
        **{"prompts_per_rollout": 4, "num_samples": 6, "micro_batch_size": 5, **settings},
    )
    return RolloutSource(FakeEngine(), ArithmeticTask(), config, 0, None, 0, 1)


def rows(batches) -> list[list[int]]:
    return [row for batch in batches for row in batch.input_ids_BT.tolist()]


def test_micro_batches_cover_every_distinct_answer_with_its_count() -> None:
    batches = source_of().next_batches()
    assert all(batch.input_ids_BT.shape[0] <= 5 for batch in batches)
    assert sum(batch.input_ids_BT.shape[0] for batch in batches) == 8  # a right and a wrong one to 4 prompts
    assert sum(batch.num_terms for batch in batches) == pytest.approx(24)


def test_rewards_follow_the_answers_and_advantages_the_rewards() -> None:
    source = source_of()
    samples = source.sample(0)
    assert {s.reward for s in samples} == {0.0, 1.0}
    for s in samples:
        assert s.reward == float(s.completion.text != "99")
    assert source.rewards == [pytest.approx(sum(s.reward for s in samples) / 24)]
    assert abs(sum(s.advantage for s in samples)) < 1e-4


def test_a_rollout_depends_on_its_number_and_seed_alone() -> None:
    first, again, other = source_of().sample(3), source_of().sample(3), source_of().sample(4)
    assert first == again
    assert first != other


def test_shuffled_rewards_are_shown_as_earned_and_lose_their_owner() -> None:
    honest, control = source_of().sample(0), source_of(shuffle_rewards=True).sample(0)
    assert all((sample.advantage > 0) == (sample.reward == 1) for sample in honest)
    assert any((sample.advantage > 0) != (sample.reward == 1) for sample in control)


def test_updates_share_a_rollout_without_overlap() -> None:
    source = source_of(updates_per_rollout=3)
    parts = [sum(batch.num_terms for batch in source.next_batches()) for _ in range(3)]
    assert parts == pytest.approx([8, 8, 8])
    assert len(source.rewards) == 1
    source.next_batches()
    assert len(source.rewards) == 2


class OneWayEngine(FakeEngine):
    """Answers sums that begin with 2 now rightly, now wrongly, and all others wrongly."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        mixed = super().generate(requests)
        fixed = [Completion((TokenStep(57, -0.5), TokenStep(1, -0.1)), "99", "stop")] * len(requests)
        return [
            done if chr(request.prompt_ids[0]) == "2" else wrong
            for request, done, wrong in zip(requests, mixed, fixed, strict=True)
        ]


def test_groups_that_teach_nothing_are_left_out() -> None:
    config = RlConfig(steps=1, model_path="m", prompts_per_rollout=100, num_samples=6)
    source = RolloutSource(OneWayEngine(), ArithmeticTask(), config, 0, None, 0, 1)
    samples = source.sample(0)
    assert 0 < len(samples) <= 60
    assert {chr(sample.prompt_ids[0]) for sample in samples} == {"2"}
    everything = RlConfig(
        steps=1, model_path="m", prompts_per_rollout=100, num_samples=6, drop_uniform_groups=False
    )
    assert len(RolloutSource(OneWayEngine(), ArithmeticTask(), everything, 0, None, 0, 1).sample(0)) == 600


def test_a_rollout_without_any_difference_keeps_one_group_and_says_so(caplog) -> None:
    class Hopeless(FakeEngine):
        def generate(self, requests: Sequence[Request]) -> list[Completion]:
            return [Completion((TokenStep(57, -0.5),), "9", "length")] * len(requests)

    config = RlConfig(steps=1, model_path="m", prompts_per_rollout=4, num_samples=6)
    source = RolloutSource(Hopeless(), ArithmeticTask(), config, 0, None, 0, 1)
    (batch,) = source.next_batches()
    assert batch.num_terms == pytest.approx(6)
    assert (batch.advantages_BT == 0).all()
    assert source.rewards == [0.0]
    assert "earned the same" in caplog.text


def test_continues_in_the_middle_of_a_rollout() -> None:
    whole = source_of(updates_per_rollout=3)
    wanted = [rows(whole.next_batches()) for _ in range(5)]
    first = source_of(updates_per_rollout=3)
    for _ in range(2):
        first.next_batches()
    second = source_of(updates_per_rollout=3)
    second.load_state_dict(first.state_dict())
    assert [rows(second.next_batches()) for _ in range(3)] == wanted[2:]
    assert second.rewards == whole.rewards


def test_two_ranks_share_a_step_without_overlap() -> None:
    config = RlConfig(steps=1, model_path="m", prompts_per_rollout=4, num_samples=6)
    ranks = [RolloutSource(FakeEngine(), ArithmeticTask(), config, 0, None, rank, 2) for rank in range(2)]
    together = sorted(rows(ranks[0].next_batches()) + rows(ranks[1].next_batches()))
    assert together == sorted(rows(source_of().next_batches()))


def test_the_reference_scores_every_micro_batch() -> None:
    config = RlConfig(
        steps=1, model_path="m", prompts_per_rollout=2, num_samples=2, grpo=GrpoConfig(kl_coef=0.1)
    )
    source = RolloutSource(
        FakeEngine(), ArithmeticTask(), config, 0, lambda b: torch.full(b.input_ids_BT.shape, -7.0), 0, 1
    )
    (batch,) = source.next_batches()
    assert (batch.ref_log_probs_BT == -7.0).all()


def test_measure_asks_every_problem() -> None:
    assert source_of().measure(2, "before") == pytest.approx(0.5, abs=0.12)
