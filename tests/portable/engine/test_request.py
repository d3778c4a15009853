"""Requests and completions: what a setting may be, and what is read off the steps."""

import pytest

from portable.core.errors import ConfigError
from portable.engine.request import Completion, Request, SamplingConfig, TokenStep


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", -0.1),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_k", -1),
    ],
)
def test_bad_sampling_setting_is_named_with_its_value(setting: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"sampling\.{setting}={value}; use"):
        SamplingConfig(**{setting: value})


def test_defaults_sample_from_the_whole_distribution() -> None:
    sampling = Request(prompt_ids=(1,)).sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed) == (1.0, 0, 1.0, None)


def test_requests_do_not_share_their_default_settings() -> None:
    first, second = Request(prompt_ids=(1,)), Request(prompt_ids=(1,))
    first.sampling.max_new_tokens = 3
    assert second.sampling.max_new_tokens == 64


def test_completion_lists_ids_and_log_probs_of_its_steps() -> None:
    completion = Completion((TokenStep(5, -0.25), TokenStep(7, -1.5)), "ab", "stop")
    assert completion.token_ids == (5, 7)
    assert completion.log_probs == (-0.25, -1.5)
