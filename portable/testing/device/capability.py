"""The record of abilities: complete, consistent with the device, and a plain value."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from portable.device.capability import DTYPES, Capability, Feature, Role, Support
from portable.device.protocol import Device, Dtype


class TestCapability:
    """Shared code asks the record instead of the name; so the record has to be right."""

    def test_it_speaks_of_what_configs_may_name(self, device: Device) -> None:
        capability = device.capability()
        assert set(capability.dtypes) == set(Role)
        assert capability.strategies["single"] == ""
        assert capability.engines["native"] == ""
        assert set(capability.strategies) >= {"single", "ddp", "fsdp"}
        assert set(capability.engines) >= {"native", "hf", "vllm", "lmdeploy"}
        assert capability.communicator
        assert any(capability.dtype(Role.matmul, dtype.name) is not Support.none for dtype in Dtype)

    def test_names_are_known_ones(self, device: Device) -> None:
        capability = device.capability()
        for role, table in capability.dtypes.items():
            assert set(table) <= set(DTYPES), role
        if capability.fp8 is not None:
            for name, largest in (
                (capability.fp8.e4m3, capability.fp8.e4m3_max),
                (capability.fp8.e5m2, capability.fp8.e5m2_max),
            ):
                assert torch.finfo(getattr(torch, name)).max == largest

    @pytest.mark.parametrize("feature", list(Feature), ids=lambda feature: feature.name)
    def test_the_device_says_the_same(self, device: Device, feature: Feature) -> None:
        assert device.supports(feature) == device.capability().supports(feature)

    def test_it_stays_the_same(self, device: Device) -> None:
        assert device.capability() == device.capability()
        with pytest.raises(dataclasses.FrozenInstanceError):
            device.capability().arch = "another"  # pyright: ignore[reportAttributeAccessIssue]

    def test_it_travels_as_json(self, device: Device) -> None:
        capability = device.capability()
        text = json.dumps(capability.to_json())
        assert Capability.from_json(json.loads(text)) == capability

    def test_it_can_be_read(self, device: Device) -> None:
        capability = device.capability()
        lines = str(capability).splitlines()
        assert capability.arch in lines[0]
        assert capability.communicator in lines[0]
        for kind, table in (("strategy", capability.strategies), ("engine", capability.engines)):
            for name, reason in table.items():
                assert f"{kind} {name}: {reason or 'usable'}" in lines

    def test_a_compiler_is_used_where_there_is_one(self, device: Device) -> None:
        def function(x: torch.Tensor) -> torch.Tensor:
            return x

        is_compiled = device.compile(function) is not function
        assert is_compiled == bool(device.capability().compile_backends)
