from typing import Any

import pytest

from portable.core.errors import ConfigError
from portable.model.config import ModelConfig
from portable.train.pretrain_config import PretrainConfig


def config(**settings: Any) -> PretrainConfig:
    return PretrainConfig(**{"data": "corpus", "steps": 3, **settings})


@pytest.mark.parametrize("name", ["seq_len", "micro_batch_size", "global_batch_size", "eval_batch_tokens"])
def test_sizes_must_be_positive(name: str):
    with pytest.raises(ConfigError, match=f"pretrain.{name}=0; use at least 1"):
        config(**{name: 0})


def test_the_loops_own_checks_hold_too():
    with pytest.raises(ConfigError, match="steps=0"):
        config(steps=0)


def test_the_number_of_evaluated_documents_may_be_all():
    assert config(eval_documents=0).eval_documents == 0
    with pytest.raises(ConfigError, match="eval_documents=-1"):
        config(eval_documents=-1)


def test_windows_longer_than_the_model_are_refused_with_the_limit():
    with pytest.raises(
        ConfigError, match=r"seq_len=128 is longer than model.max_seq_len=64; use seq_len of at most 64"
    ):
        config(seq_len=128, model=ModelConfig(max_seq_len=64))


def test_accumulation_follows_from_the_batch_and_the_number_of_processes():
    settings = config(micro_batch_size=2, global_batch_size=24)
    assert [settings.grad_accum_steps(world_size) for world_size in (1, 2, 3, 4)] == [12, 6, 4, 3]


def test_a_batch_that_cannot_be_dealt_out_names_the_legal_values():
    told = (
        r"global_batch_size=10 is not a multiple of .* = 4 × 1; use global_batch_size=8 or 12, "
        r"or micro_batch_size=1 or 2 or 5 or 10"
    )
    with pytest.raises(ConfigError, match=told):
        config(micro_batch_size=4, global_batch_size=10)
    with pytest.raises(ConfigError, match=r"= 4 × 3; use global_batch_size=12"):
        config(micro_batch_size=4, global_batch_size=8).grad_accum_steps(3)
