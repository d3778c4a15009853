import torch

from backends.cpu import device as device_module
from backends.cpu.device import CpuDevice
from portable.device.protocol import Feature, Support


def test_one_device_whatever_the_index():
    device = CpuDevice()
    device.set_index(3)
    assert device.count() == 1
    assert device.torch_device(3) == torch.device("cpu")


def test_native_formats_follow_the_instruction_set(monkeypatch):
    for found, bf16, fp16 in [
        ({}, Support.emulated, Support.emulated),
        ({"avx512_bf16": True}, Support.native, Support.emulated),
        ({"amx_fp16": True, "amx_bf16": False}, Support.emulated, Support.native),
    ]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        dtypes = CpuDevice().capability().matmul_dtypes
        assert dtypes == {"fp32": Support.native, "bf16": bf16, "fp16": fp16}


def test_compile_is_offered_only_with_a_compiler(monkeypatch):
    def double(x):
        return x * 2

    monkeypatch.setenv("CXX", "")
    monkeypatch.setattr(device_module.shutil, "which", lambda name: None)
    assert not CpuDevice().supports(Feature.compile)
    assert CpuDevice().compile(double) is double
    monkeypatch.setattr(device_module.shutil, "which", lambda name: "/usr/bin/" + name)
    assert CpuDevice().supports(Feature.compile)
    assert CpuDevice().compile(double) is not double


def test_absent_abilities_are_told():
    for feature in (Feature.async_copy, Feature.pinned_memory, Feature.graph_capture):
        assert not CpuDevice().supports(feature)
    assert CpuDevice().supports(Feature.float64)


def test_engines_and_strategies_come_with_reasons(monkeypatch):
    capability = CpuDevice().capability()
    assert [name for name, reason in capability.engines.items() if not reason] == ["native", "hf"]
    assert "engine=native" in capability.engines["vllm"]
    assert set(capability.strategies.values()) == {""}
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    without = CpuDevice().capability().strategies
    assert without["single"] == ""
    assert "torch.distributed" in without["fsdp"]


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
