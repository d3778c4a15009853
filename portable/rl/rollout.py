"""Sampled answers as a source of training batches: the policy that is trained is the policy that is sampled.

The source plugs into the one training loop. Everything random is derived from (seed, rollout number), so a
run that was killed samples the same answers again.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from portable.core.random import derive_seed
from portable.core.record import Batch, Message
from portable.data.task.arithmetic import ArithmeticTask, Problem
from portable.engine.protocol import Engine
from portable.engine.request import Completion, Request, SamplingConfig
from portable.model.chat import render_prompt
from portable.rl.advantage import group_relative
from portable.rl.batch import RolloutBatch
from portable.rl.config import RlConfig
from portable.rl.sample import Sample, collate, from_json, merge_equal, share_equally, to_json

# The reference policy's log-probs of a batch's targets.
Scorer = Callable[[RolloutBatch], Tensor]
logger = logging.getLogger(__name__)


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
        updates, size = self.config.updates_per_rollout, self.config.micro_batch_size
        rollout, part = divmod(self._step, updates)
        if part == 0 or not self._samples:
            self._samples = self.sample(rollout)
        total = len(self._samples)
        due = merge_equal(self._samples[part * total // updates : (part + 1) * total // updates])
        mine = share_equally(due, self.rank, self.size)
        self._step += 1
        return [self._collate(mine[start : start + size]) for start in range(0, len(mine), size)]

    def state_dict(self) -> dict[str, Any]:  # Any: JSON values
        """Return the step, the curve, and the answers still in use.

        The answers came from an older policy and cannot be sampled again.
        """
        return {
            "step": self._step,
            "rewards": list(self.rewards),
            "samples": [to_json(sample) for sample in self._samples],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:  # Any: JSON values
        """Go to a position."""
        self._step = int(state["step"])
        self.rewards = [float(reward) for reward in state["rewards"]]
        self._samples = [from_json(row) for row in state["samples"]]

    def sample(self, rollout: int) -> list[Sample]:
        """Return the weighed answers of rollout number ``rollout``, group by group in random order.

        With ``drop_uniform_groups`` only groups that teach something are kept. If none does, one stays, so
        that a step is never empty, and the log says so.
        """
        rng = random.Random(derive_seed(self.seed, "rollout", rollout))
        problems = rng.sample(self._problems, min(self.config.prompts_per_rollout, len(self._problems)))
        size = self.config.num_samples
        asked = [problem for problem in problems for _ in range(size)]
        completions = self.engine.generate(self._requests(asked, "rollout", rollout))
        rewards = [self._reward(problem, done) for problem, done in zip(asked, completions, strict=True)]
        self.rewards.append(sum(rewards) / len(rewards))
        owned = rng.sample(rewards, len(rewards)) if self.config.shuffle_rewards else rewards
        advantages = group_relative(
            torch.tensor(owned).view(-1, size), scale_by_std=self.config.grpo.scale_by_std
        )
        samples = [
            Sample(self._prompts[problem.prompt], done, reward, advantage)
            for problem, done, reward, advantage in zip(
                asked, completions, rewards, advantages.flatten().tolist(), strict=True
            )
        ]
        groups = [samples[start : start + size] for start in range(0, len(samples), size)]
        if self.config.drop_uniform_groups:
            groups = self._telling(groups)
        return [sample for group in groups for sample in group]

    def _telling(self, groups: list[list[Sample]]) -> list[list[Sample]]:
        telling = [group for group in groups if any(sample.advantage != 0 for sample in group)]
        if not telling:
            logger.warning(
                "rollout %d: all answers to a prompt earned the same, for every prompt", len(self.rewards)
            )
        return telling or groups[:1]

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
