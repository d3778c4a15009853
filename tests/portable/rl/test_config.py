import pytest

from portable.core.errors import ConfigError
from portable.rl.config import GrpoConfig, RlConfig


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"num_samples": 1}, "num_samples"),
        ({"seeds": []}, "seeds"),
        ({"temperature": 0.0}, "temperature"),
        ({"updates_per_rollout": 17}, "updates_per_rollout"),
        ({"updates_per_rollout": 0}, "updates_per_rollout"),
        ({"steps": 0}, "steps"),
    ],
)
def test_impossible_settings_are_named(settings, field) -> None:
    with pytest.raises(ConfigError, match=field):
        RlConfig(**{"steps": 1, "model_path": "m", **settings})


@pytest.mark.parametrize("field", ["clip_low", "clip_high", "kl_coef"])
def test_negative_coefficients_are_refused(field) -> None:
    with pytest.raises(ConfigError, match=field):
        GrpoConfig(**{field: -0.1})


def test_as_many_updates_as_answers_to_a_prompt_are_accepted() -> None:
    assert RlConfig(num_samples=4, updates_per_rollout=4).updates_per_rollout == 4
