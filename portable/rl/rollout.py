"""Sampled answers as a source of training batches: the policy that is trained is the policy that is sampled.

The source plugs into the one training loop. Everything random is derived from (seed, rollout number), so a
run that was killed samples the same answers again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from portable.core.random import derive_seed
from portable.core.record import Batch, Message
from portable.data.task.arithmetic import ArithmeticTask, Problem
from portable.engine.protocol import Engine
from portable.engine.request import Completion, Request, SamplingConfig, TokenStep
from portable.model.chat import render_prompt
from portable.rl.advantage import group_relative
from portable.rl.batch import RolloutBatch
from portable.rl.config import LossAggregation, RlConfig

# The reference policy's log-probs of a batch's targets.
Scorer = Callable[[RolloutBatch], Tensor]


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer to one prompt and what it earned."""

    prompt_ids: tuple[int, ...]
    completion: Completion
    reward: float
    advantage: float


class RolloutSource:
    """Samples answers, then hands them out over several steps.

    A rollout is ``prompts_per_rollout × num_samples`` answers, used up in ``updates_per_rollout`` steps.
    ``rewards`` is the mean reward of every rollout so far: the learning curve.
    """

    def __init__(
        self,
        engine: Engine,
        task: ArithmeticTask,
        config: RlConfig,
        seed: int,
        reference: Scorer | None,
        rank: int,
        size: int,
    ) -> None:
        self.engine = engine
        self.task = task
        self.config = config
        self.seed = seed
        self.reference = reference
        self.rank = rank
        self.size = size
        self.rewards: list[float] = []
        self._problems = task.problems()
        self._prompts = {p.prompt: self._render(p) for p in self._problems}
        self._step = 0
        self._samples: list[Sample] = []

    def next_batches(self) -> Sequence[Batch]:
        """Return the micro-batches of the next optimiser step.

        Samples first when the last answers are used up.
        """
        rollout, part = divmod(self._step, self.config.updates_per_rollout)
        if part == 0 or not self._samples:
            self._samples = self.sample(rollout)
        share = len(self._samples) // self.config.updates_per_rollout
        mine = self._samples[part * share : (part + 1) * share][self.rank :: self.size]
        self._step += 1
        size = self.config.micro_batch_size
        return [self._collate(mine[start : start + size]) for start in range(0, len(mine), size)]

    def state_dict(self) -> dict[str, Any]:  # Any: JSON values
        """Return the step, the curve, and the answers still in use.

        The answers came from an older policy and cannot be sampled again.
        """
        return {
            "step": self._step,
            "rewards": list(self.rewards),
            "samples": [_pack(sample) for sample in self._samples],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:  # Any: JSON values
        """Go to a position."""
        self._step = int(state["step"])
        self.rewards = [float(reward) for reward in state["rewards"]]
        self._samples = [_unpack(row) for row in state["samples"]]

    def sample(self, rollout: int) -> list[Sample]:
        """Answer the prompts of rollout number ``rollout`` and weigh the answers, in random order."""
        rng = random.Random(derive_seed(self.seed, "rollout", rollout))
        problems = rng.sample(self._problems, min(self.config.prompts_per_rollout, len(self._problems)))
        asked = [problem for problem in problems for _ in range(self.config.num_samples)]
        completions = self.engine.generate(self._requests(asked, "rollout", rollout))
        rewards = [self._reward(problem, done) for problem, done in zip(asked, completions, strict=True)]
        self.rewards.append(sum(rewards) / len(rewards))
        if self.config.shuffle_rewards:
            rng.shuffle(rewards)
        grouped = torch.tensor(rewards).view(len(problems), self.config.num_samples)
        advantages = group_relative(grouped, scale_by_std=self.config.grpo.scale_by_std).flatten().tolist()
        samples = [
            Sample(self._prompts[problem.prompt], done, reward, advantage)
            for problem, done, reward, advantage in zip(asked, completions, rewards, advantages, strict=True)
        ]
        rng.shuffle(samples)
        return samples

    def measure(self, num_samples: int, label: str) -> float:
        """Return the mean reward of ``num_samples`` sampled answers to every problem."""
        asked = [problem for problem in self._problems for _ in range(num_samples)]
        completions = self.engine.generate(self._requests(asked, label, 0))
        return sum(
            self._reward(problem, done) for problem, done in zip(asked, completions, strict=True)
        ) / len(asked)

    def _requests(self, asked: Sequence[Problem], label: str, number: int) -> list[Request]:
        sampling = SamplingConfig(
            max_new_tokens=self.config.max_new_tokens, temperature=self.config.temperature
        )
        return [
            Request(
                prompt_ids=self._prompts[problem.prompt],
                sampling=replace(sampling, seed=derive_seed(self.seed, label, number, index)),
                stop_token_ids=self.engine.tokenizer.stop_token_ids,
            )
            for index, problem in enumerate(asked)
        ]

    def _reward(self, problem: Problem, completion: Completion) -> float:
        return self.task.reward(problem, completion.text) if completion.finish_reason == "stop" else 0.0

    def _render(self, problem: Problem) -> tuple[int, ...]:
        return tuple(render_prompt(self.engine.tokenizer, [Message("user", problem.prompt)]))

    def _collate(self, samples: Sequence[Sample]) -> RolloutBatch:
        batch = collate(samples, self.engine.tokenizer.pad_token_id, self.config.grpo.aggregation)
        if self.reference is None:
            return batch
        return replace(batch, ref_log_probs_BT=self.reference(batch))


def collate(samples: Sequence[Sample], pad_token_id: int, aggregation: LossAggregation) -> RolloutBatch:
    """Return one row a sample, padded on the right.

    A row is a segment of its own, and no token sees the padding.
    """
    rows, width = len(samples), max(len(s.prompt_ids) + len(s.completion.steps) for s in samples) - 1
    ids_BT = torch.full((rows, width), pad_token_id)
    targets_BT = torch.full((rows, width), pad_token_id)
    weight_BT, advantage_BT, old_BT = (torch.zeros(rows, width) for _ in range(3))
    for row, sample in enumerate(samples):
        tokens = torch.tensor(sample.prompt_ids + sample.completion.token_ids)
        start, end = len(sample.prompt_ids) - 1, len(tokens) - 1
        ids_BT[row, :end] = tokens[:-1]
        targets_BT[row, :end] = tokens[1:]
        weight_BT[row, start:end] = 1.0 if aggregation is LossAggregation.token_mean else 1.0 / (end - start)
        advantage_BT[row, start:end] = sample.advantage
        old_BT[row, start:end] = torch.tensor(sample.completion.log_probs)
    return RolloutBatch(
        input_ids_BT=ids_BT,
        target_ids_BT=targets_BT,
        loss_weight_BT=weight_BT,
        position_ids_BT=torch.arange(width).expand(rows, width),
        advantages_BT=advantage_BT,
        old_log_probs_BT=old_BT,
        ref_log_probs_BT=old_BT.clone(),
    )


def _pack(sample: Sample) -> list[Any]:  # Any: JSON values
    steps = [[step.token_id, step.log_prob] for step in sample.completion.steps]
    return [
        list(sample.prompt_ids),
        steps,
        sample.completion.text,
        sample.completion.finish_reason,
        sample.reward,
        sample.advantage,
    ]


def _unpack(row: list[Any]) -> Sample:  # Any: JSON values
    prompt_ids, steps, text, finish_reason, reward, advantage = row
    completion = Completion(
        tuple(TokenStep(int(token), float(log_prob)) for token, log_prob in steps), text, finish_reason
    )
    return Sample(tuple(int(token) for token in prompt_ids), completion, float(reward), float(advantage))
