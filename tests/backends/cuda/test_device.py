"""What NVIDIA's device overrides, with torch's answers made up; nothing of CUDA is called."""

import pytest
import torch

from backends.cuda import device as module
from backends.cuda.device import CudaDevice
from portable.core.errors import CapabilityError


@pytest.fixture
def h100(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    monkeypatch.setattr(module, "has_package", lambda name: True)


def test_identity(h100):
    device = CudaDevice()
    assert (device.name, device.vendor, device.torch_type, device.arch) == ("cuda", "nvidia", "cuda", "sm_90")
    assert device.module is torch.cuda
    assert device.capability().compile_backends == ("inductor",)
    assert set(device.capability().strategies.values()) == {""}


def test_what_is_not_installed_is_told(h100, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    monkeypatch.setattr(module, "has_package", lambda name: False)
    capability = CudaDevice().capability()
    assert "NCCL" in capability.strategies["fsdp"]
    assert capability.strategies["single"] == ""
    assert capability.compile_backends == ()
    assert "pip install vllm" in capability.engines["vllm"]


def test_deterministic_needs_its_setting_before_the_gpu_starts(h100, monkeypatch):
    device = CudaDevice()
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with pytest.raises(CapabilityError, match="CUBLAS_WORKSPACE_CONFIG=:4096:8 before torch"):
        device.set_deterministic(True)
    device.set_deterministic(False)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    torch.backends.cudnn.benchmark = True
    try:
        device.set_deterministic(True)
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.benchmark is False
    finally:
        device.set_deterministic(False)
