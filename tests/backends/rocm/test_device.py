"""What AMD's device overrides, with torch's answers made up; nothing of HIP is called."""

from types import SimpleNamespace

import pytest
import torch

from backends.rocm import device as module
from backends.rocm.device import RocmDevice


@pytest.fixture
def mi300x(monkeypatch):
    properties = SimpleNamespace(gcnArchName="gfx942:sramecc+:xnack-")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    monkeypatch.setattr(module, "has_package", lambda name: True)


def test_identity(mi300x):
    device = RocmDevice()
    assert (device.name, device.vendor, device.torch_type, device.arch) == ("rocm", "amd", "cuda", "gfx942")
    assert device.capability().communicator == "rccl"
    assert device.capability().fp8.e4m3 == "float8_e4m3fnuz"
    assert device.capability().compile_backends == ("inductor",)


def test_what_is_not_offered_is_told(mi300x, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    monkeypatch.setattr(module, "has_package", lambda name: False)
    capability = RocmDevice().capability()
    assert "RCCL" in capability.strategies["ddp"]
    assert "AMD" in capability.engines["lmdeploy"]
    assert capability.compile_backends == ()


def test_deterministic_keeps_convolutions_from_choosing_by_time(mi300x):
    device = RocmDevice()
    torch.backends.cudnn.benchmark = True
    try:
        device.set_deterministic(True)
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.benchmark is False
        assert torch.backends.cudnn.deterministic is True
    finally:
        device.set_deterministic(False)
    assert torch.backends.cudnn.deterministic is False
