"""Settings of reinforcement learning from a verifiable reward."""

from dataclasses import dataclass, field
from enum import Enum

from portable.core.errors import ConfigError
from portable.train.config import TrainConfig


class LossAggregation(Enum):
    """What the policy loss is a mean over."""

    sequence_mean = "sequence_mean"  # mean over sequences of the token mean (GRPO, Shao et al. 2024, eq. 3)
    token_mean = "token_mean"  # mean over all tokens of the step (DAPO, Yu et al. 2025, eq. 8)


@dataclass(kw_only=True, slots=True)
class GrpoConfig:
    """Group-relative policy optimisation.

    ``clip_low`` and ``clip_high`` bound the probability ratio to [1 - clip_low, 1 + clip_high]. ``kl_coef``
    weighs the k3 estimate of the divergence from the starting policy. ``scale_by_std=false`` leaves
    advantages undivided (Dr. GRPO).
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    kl_coef: float = 0.001
    scale_by_std: bool = True
    aggregation: LossAggregation = LossAggregation.sequence_mean

    def __post_init__(self) -> None:
        for name in ("clip_low", "clip_high", "kl_coef"):
            if getattr(self, name) < 0:
                raise ConfigError(f"grpo.{name}={getattr(self, name)}; use 0 or a positive number")


@dataclass(kw_only=True, slots=True)
class RlConfig(TrainConfig):
    """One run per seed in ``seeds``; the first seed's policy is the result, whatever its score.

    A rollout takes ``prompts_per_rollout`` prompts, samples ``num_samples`` answers to each, and is followed
    by ``updates_per_rollout`` optimiser steps on equal parts of them. ``drop_uniform_groups`` leaves out
    prompts whose answers all earned the same: their advantages are 0 (the filter of DAPO, Yu et al. 2025,
    section 3.2, without its refilling). ``shuffle_rewards`` hands every reward to another sample: a control
    that must not learn.
    """

    model_path: str = ""
    num_digits: int = 1
    seeds: list[int] = field(default_factory=lambda: [0])
    prompts_per_rollout: int = 32
    num_samples: int = 16
    updates_per_rollout: int = 1
    micro_batch_size: int = 512
    max_new_tokens: int = 4
    temperature: float = 1.0
    drop_uniform_groups: bool = True
    shuffle_rewards: bool = False
    grpo: GrpoConfig = field(default_factory=GrpoConfig)

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)  # super() finds no class in a slotted dataclass
        if self.num_samples < 2:
            raise ConfigError(
                f"rl.num_samples={self.num_samples}; advantages compare samples of a group, so use at least 2"
            )
        if not self.seeds:
            raise ConfigError("rl.seeds is empty; list at least one seed")
        if not 1 <= self.updates_per_rollout <= self.num_samples:
            raise ConfigError(
                f"rl.updates_per_rollout={self.updates_per_rollout}; use 1 to num_samples="
                f"{self.num_samples}: a rollout may hold the answers to a single prompt, and every update "
                "needs some"
            )
        if self.temperature <= 0:
            raise ConfigError(f"rl.temperature={self.temperature}; sampling needs a positive temperature")
