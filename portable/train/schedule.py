"""The learning rate over steps: pure functions of the step, so there is no state to save."""

import math

from portable.train.config import Decay, ScheduleConfig


def lr_factor(step: int, steps: int, config: ScheduleConfig) -> float:
    """Return what the learning rate of ``step`` (from 0) of ``steps`` is multiplied by.

    Warm-up rises linearly and reaches 1 at its last step; decay starts after it and would reach
    ``min_factor`` at step ``steps``, one after the last, so that the last step still learns when
    ``min_factor`` is 0.
    Source: cosine, Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5; wsd, Hu et al. 2024,
    arXiv:2404.06395, section 4; wsd_sqrt, Hägele et al. 2024, arXiv:2405.18392, section 4.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    start = config.warmup_steps
    if config.decay in (Decay.wsd, Decay.wsd_sqrt):
        start = max(start, steps - round(config.decay_fraction * steps))
    if config.decay is Decay.constant or step < start or steps <= start:
        return 1.0
    progress = min(1.0, (step - start) / (steps - start))
    return config.min_factor + (1 - config.min_factor) * _share(config.decay, progress)


def _share(decay: Decay, progress: float) -> float:
    """Return what is left of the way down to the floor after a share ``progress`` of the decay."""
    if decay is Decay.cosine:
        return (1 + math.cos(math.pi * progress)) / 2
    return 1 - math.sqrt(progress) if decay is Decay.wsd_sqrt else 1 - progress
