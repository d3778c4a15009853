"""The learning rate over steps: pure functions of the step, so there is no state to save."""

import math

from portable.train.config import Decay, ScheduleConfig


def lr_factor(step: int, steps: int, config: ScheduleConfig) -> float:
    """Return what the learning rate of ``step`` (from 0) of ``steps`` is multiplied by.

    Warm-up rises linearly and reaches 1 at its last step; decay starts after it and would reach
    ``min_factor`` at step ``steps``, one after the last, so that the last step still learns when
    ``min_factor`` is 0.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    start = config.warmup_steps
    if config.decay is Decay.wsd:
        start = max(start, steps - round(config.decay_fraction * steps))
    if config.decay is Decay.constant or step < start or steps <= start:
        return 1.0
    progress = min(1.0, (step - start) / (steps - start))
    share = (1 + math.cos(math.pi * progress)) / 2 if config.decay is Decay.cosine else 1 - progress
    return config.min_factor + (1 - config.min_factor) * share
