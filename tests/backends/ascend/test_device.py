"""What the NPU's device overrides, over a recording torch_npu; the real one is in test_emulated_device.py."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from portable.core.errors import CapabilityError
from tests.backends.torch_device.recording import RecordingModule


class RecordingNpu(RecordingModule):
    """``torch.npu``, as far as the device asks."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace()

    def get_device_name(self, index):
        return "Ascend910B2"


@pytest.fixture
def device(monkeypatch):
    """Return an AscendDevice whose torch_npu knows tensors by their ``layout_code``."""
    torch_npu = ModuleType("torch_npu")
    torch_npu.get_npu_format = lambda tensor: tensor.layout_code
    torch_npu.npu_format_cast = lambda tensor, code: ("cast to", code)
    npu = RecordingNpu()
    monkeypatch.setitem(sys.modules, "torch_npu", torch_npu)
    monkeypatch.setattr(torch, "npu", npu, raising=False)
    monkeypatch.setattr(torch, "get_device_module", lambda name: {"npu": npu}[name])
    monkeypatch.delitem(sys.modules, "backends.ascend.device", raising=False)
    from backends.ascend.device import AscendDevice

    yield AscendDevice()
    del sys.modules["backends.ascend.device"]  # it holds the recording torch_npu


def there(code):
    return SimpleNamespace(device=SimpleNamespace(type="npu"), layout_code=code)


def test_identity(device):
    assert (device.name, device.vendor, device.torch_type) == ("ascend", "huawei", "npu")
    assert device.arch == "ascend910b"
    assert device.num_cores(SimpleNamespace(cube_core_num=24)) == 24


def test_private_layouts_are_switched_off(device):
    assert torch.npu.config.allow_internal_format is False


@pytest.mark.parametrize(("private", "plain"), [(29, 2), (51, 2), (3, 0), (4, 0), (32, 30)])
def test_private_layouts_are_made_plain(device, private, plain):
    assert device.to_portable(there(private)) == ("cast to", plain)


@pytest.mark.parametrize("code", [-1, 0, 1, 2, 27, 30])
def test_plain_layouts_stay(device, code):
    tensor = there(code)
    assert device.to_portable(tensor) is tensor


def test_host_tensors_have_no_layout_of_the_chip(device):
    tensor = torch.ones(2)
    assert device.to_portable(tensor) is tensor


def test_deterministic_needs_its_setting_before_hccl_is_loaded(device, monkeypatch):
    for value in ("", "false"):
        monkeypatch.setenv("HCCL_DETERMINISTIC", value)
        with pytest.raises(CapabilityError, match="HCCL_DETERMINISTIC=true before torch_npu"):
            device.set_deterministic(True)
    monkeypatch.setenv("HCCL_DETERMINISTIC", "strict")
    try:
        device.set_deterministic(True)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        device.set_deterministic(False)


def test_no_compiler_without_its_triton(device):
    assert device.capability().compile_backends == ()
    assert "vllm-ascend" in device.capability().engines["vllm"]
