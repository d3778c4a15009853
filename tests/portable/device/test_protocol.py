import dataclasses

import pytest
import torch

from portable.device.capability import Feature, Role, Support
from portable.device.protocol import Dtype, Memory


def test_dtypes_are_named_as_configs_spell_them():
    assert {dtype.name: dtype.torch() for dtype in Dtype} == {
        "fp32": torch.float32,
        "bf16": torch.bfloat16,
        "fp16": torch.float16,
    }


def test_enum_members_are_read_by_their_lower_case_names():
    for kind in (Dtype, Support, Feature, Role):
        assert all(member.name == member.value == member.name.lower() for member in kind)


def test_values_that_travel_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Memory(1, 1, 0, None).total_bytes = 2
