import pytest

from portable.core.errors import ConfigError
from portable.sft.config import AdapterConfig, SftConfig


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"steps": -1}, "steps=-1"),
        ({"epochs": 0.0}, "sft.epochs=0"),
        ({"seq_len": 0}, "sft.seq_len=0"),
        ({"num_questions": 0}, "sft.num_questions=0"),
        ({"arithmetic_format_examples": -1}, "sft.arithmetic_format_examples=-1"),
    ],
)
def test_a_bad_setting_is_named(settings: dict, field: str):
    with pytest.raises(ConfigError, match=field):
        SftConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "field"), [({"r": 0}, "adapter.r=0"), ({"dropout": 1.0}, "adapter.dropout=1")]
)
def test_a_bad_adapter_is_named(settings: dict, field: str):
    with pytest.raises(ConfigError, match=field):
        AdapterConfig(**settings)


def test_steps_come_from_epochs_unless_they_are_set():
    assert SftConfig(epochs=2.5, global_batch_size=8).num_steps(17) == 6
    assert SftConfig(epochs=0.01).num_steps(3) == 1
    assert SftConfig(steps=7).num_steps(1000) == 7


def test_a_batch_that_cannot_be_dealt_out_names_those_that_can():
    assert SftConfig(micro_batch_size=2, global_batch_size=16).grad_accum_steps(4) == 2
    with pytest.raises(ConfigError, match="use global_batch_size=8 or 16"):
        SftConfig(micro_batch_size=4, global_batch_size=12).grad_accum_steps(2)
    with pytest.raises(ConfigError, match=r"use global_batch_size=16$"):
        SftConfig(micro_batch_size=4, global_batch_size=8).grad_accum_steps(4)
