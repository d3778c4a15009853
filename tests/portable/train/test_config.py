from typing import Any

import pytest

from portable.core.errors import ConfigError
from portable.train.config import (
    AdamWConfig,
    CheckpointConfig,
    Decay,
    MuonConfig,
    OptimConfig,
    ScheduleConfig,
    TrainConfig,
)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps=0; use at least 1"),
        ({"steps": 5, "log_every_steps": 0}, "log_every_steps=0; use at least 1"),
        ({"steps": 5, "max_grad_norm": -1.0}, "max_grad_norm=-1.0; use 0 to switch it off"),
        ({"steps": 5, "eval_every_steps": -2}, "eval_every_steps=-2; use 0 to switch it off"),
    ],
)
def test_senseless_loops_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup_steps": -1}, "schedule.warmup_steps=-1"),
        ({"min_factor": 1.5}, "schedule.min_factor=1.5"),
        ({"decay_fraction": 0.0}, "schedule.decay_fraction=0.0"),
    ],
)
def test_senseless_schedules_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        ScheduleConfig(**settings)


def test_a_run_must_keep_a_checkpoint():
    with pytest.raises(ConfigError, match=r"checkpoint.keep=0"):
        CheckpointConfig(keep=0)
    with pytest.raises(ConfigError, match=r"checkpoint.every_steps=-1"):
        CheckpointConfig(every_steps=-1)


def test_a_config_may_wait_for_its_steps():
    assert (
        TrainConfig().schedule.decay is Decay.cosine
    )  # a file that is still being composed has no steps yet


@pytest.mark.parametrize(("setting", "value"), [("lr", 0.0), ("weight_decay", -0.1)])
@pytest.mark.parametrize("kind", [AdamWConfig, MuonConfig])
def test_senseless_optimisers_are_refused(kind: type[OptimConfig], setting: str, value: float):
    with pytest.raises(ConfigError, match=f"optim.{setting}={value}"):
        kind(**{setting: value})


def test_optimisers_know_their_registered_names():
    assert (AdamWConfig().name, MuonConfig().name) == ("adamw", "muon")
