import torch

from backends.cpu import device as device_module
from backends.cpu.device import CpuDevice
from portable.device.capability import Feature


def test_one_device_whatever_the_index():
    device = CpuDevice()
    device.set_index(3)
    assert device.count() == 1
    assert device.torch_device(3) == torch.device("cpu")


def test_compile_is_offered_only_with_a_compiler(monkeypatch):
    def double(x):
        return x * 2

    monkeypatch.setenv("CXX", "")
    monkeypatch.setattr("backends.cpu.capability.shutil.which", lambda name: None)
    assert CpuDevice().capability().compile_backends == ()
    assert CpuDevice().compile(double) is double
    monkeypatch.setattr("backends.cpu.capability.shutil.which", lambda name: "/usr/bin/" + name)
    assert CpuDevice().capability().compile_backends == ("inductor",)
    assert CpuDevice().compile(double) is not double


def test_absent_abilities_are_told():
    assert [feature for feature in Feature if CpuDevice().supports(feature)] == [Feature.real_time]


def test_host_memory_is_left_as_it_is():
    device, tensor = CpuDevice(), torch.ones(2)
    assert device.pin(tensor) is tensor
    assert device.to_portable(tensor) is tensor
    device.record_stream(tensor, device.new_stream())
    device.empty_cache()


def test_deterministic_operators_are_switched_on_and_off():
    device = CpuDevice()
    try:
        device.set_deterministic(True)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        device.set_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()


def test_vendor_is_read_from_the_processors_title(monkeypatch):
    for title, vendor in [("AMD EPYC", "amd"), ("Intel(R) Xeon(R)", "intel"), ("Kunpeng-920", "huawei")]:
        monkeypatch.setattr(device_module, "cpu_title", lambda title=title: title)
        assert CpuDevice().vendor == vendor
    monkeypatch.setattr(device_module, "cpu_title", lambda: "something else")
    monkeypatch.setattr(device_module.platform, "machine", lambda: "riscv64")
    assert CpuDevice().vendor == "riscv64"


def test_arch_is_torchs_level_or_the_machines(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert CpuDevice().arch == "avx2"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    monkeypatch.setattr(device_module.platform, "machine", lambda: "aarch64")
    assert CpuDevice().arch == "aarch64"
