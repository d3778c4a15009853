import dataclasses
import pickle

import pytest
import torch

from portable.device.protocol import Capability, Dtype, Feature, Memory, Support


def test_dtypes_are_named_as_configs_spell_them():
    assert {dtype.name: dtype.torch() for dtype in Dtype} == {
        "fp32": torch.float32,
        "bf16": torch.bfloat16,
        "fp16": torch.float16,
    }


def test_enum_members_are_read_by_their_lower_case_names():
    for kind in (Dtype, Support, Feature):
        assert all(member.name == member.value == member.name.lower() for member in kind)


def test_capability_is_a_plain_value():
    capability = Capability({"fp32": Support.native}, (Feature.float64,), ("sum",), "x", {"single": ""}, {})
    assert capability.supports(Feature.float64)
    assert not capability.supports(Feature.compile)
    assert pickle.loads(pickle.dumps(capability)) == capability
    with pytest.raises(dataclasses.FrozenInstanceError):
        Memory(1, 1, 0, None).total_bytes = 2
