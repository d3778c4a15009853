"""One sampled answer, and how several become a training batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from portable.engine.request import Completion, TokenStep
from portable.rl.batch import RolloutBatch
from portable.rl.config import LossAggregation


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer to one prompt, what it earned, and how many times it was drawn."""

    prompt_ids: tuple[int, ...]
    completion: Completion
    reward: float
    advantage: float
    count: int = 1


def merge_equal(samples: Sequence[Sample]) -> list[Sample]:
    """Return each distinct answer once, in order of appearance, with its count.

    Equal answers to a prompt have equal probabilities and advantages, so computing one of them and weighing
    it by the count gives the same loss. A policy that becomes sure of itself draws few distinct answers.
    """
    merged: dict[tuple[tuple[int, ...], tuple[int, ...], float], Sample] = {}
    for sample in samples:
        key = (sample.prompt_ids, sample.completion.token_ids, sample.advantage)
        seen = merged.get(key)
        merged[key] = sample if seen is None else replace(seen, count=seen.count + sample.count)
    return list(merged.values())


def share_equally(samples: Sequence[Sample], rank: int, size: int) -> list[Sample]:
    """Return this rank's share: as many rows as any other's, filled up with rows that count for nothing."""
    fill = [replace(samples[0], count=0)] * (-len(samples) % size)
    return [*samples, *fill][rank::size]


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
        per_token = aggregation is LossAggregation.token_mean
        weight_BT[row, start:end] = sample.count * (1.0 if per_token else 1.0 / (end - start))
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


def to_json(sample: Sample) -> list[Any]:  # Any: JSON values
    """Return a sample as a checkpoint holds it."""
    steps = [[step.token_id, step.log_prob] for step in sample.completion.steps]
    done = [steps, sample.completion.text, sample.completion.finish_reason]
    return [list(sample.prompt_ids), *done, sample.reward, sample.advantage]


def from_json(row: list[Any]) -> Sample:  # Any: JSON values
    """Read what ``to_json`` returned."""
    prompt_ids, steps, text, finish_reason, reward, advantage = row
    completion = Completion(
        tuple(TokenStep(int(token), float(log_prob)) for token, log_prob in steps), text, finish_reason
    )
    return Sample(tuple(int(token) for token in prompt_ids), completion, float(reward), float(advantage))
