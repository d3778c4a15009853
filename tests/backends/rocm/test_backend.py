"""The probe against made-up kernel files: every state of a machine is told apart."""

import os
import subprocess
import sys

import pytest

from backends.rocm.backend import RocmBackend
from portable.device.backend import Level

ROCM_BUILD = "__version__ = '2.13.0+rocm7.2'\ncuda = None\nhip = '7.2.26015-fc0010cf6a'\n"
CUDA_BUILD = "__version__ = '2.13.0'\ncuda = '13.0'\nhip = None\n"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def machine(root, build=ROCM_BUILD):
    file = root / "version.py"
    if build:
        file.write_text(build)
    return RocmBackend(root, file)


def test_a_usable_machine_names_its_hardware_file(kernel):
    backend = machine(kernel())
    probe = backend.probe()
    assert (probe.usable, probe.hardware) == (True, "rocm_mi300x")
    assert probe.found == "2 x AMD Instinct MI300X OAM (gfx942)"
    assert [finding.level for finding in backend.findings()] == [Level.good, Level.good]


def test_a_gpu_that_no_file_describes_is_usable_and_told(kernel):
    backend = machine(kernel(version=110000, name="Radeon RX 7900 XTX", gib=24))
    assert (backend.probe().usable, backend.probe().hardware) == (True, "rocm")
    assert backend.findings()[-1].subject == "figures"


def test_another_rocm_than_torchs_is_told(kernel):
    backend = machine(kernel(), ROCM_BUILD.replace("7.2.26015", "6.4.1"))
    assert backend.probe().usable  # people build torch themselves
    (clash,) = [finding for finding in backend.findings() if finding.level is Level.bad]
    assert "rocm ==7.2.*; found 6.4" in clash.text
    assert "whl/rocm7.2" in clash.remedy


def check(backend, found, remedy, level=Level.bad):
    probe = backend.probe()
    assert not probe.usable
    assert found in probe.found
    assert remedy in probe.remedy
    (finding,) = backend.findings()
    assert (finding.level, finding.text, finding.remedy) == (level, probe.found, probe.remedy)


def test_two_variables_that_hide_gpus_are_refused_together(kernel, monkeypatch):
    backend = machine(kernel())
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "1")
    assert backend.probe().usable
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "1")
    check(backend, "both HIP_VISIBLE_DEVICES='1' and ROCR_VISIBLE_DEVICES='1'", "unset ROCR_VISIBLE_DEVICES")


@pytest.mark.parametrize("name", ["HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"])
def test_a_variable_that_hides_every_gpu(kernel, monkeypatch, name):
    monkeypatch.setenv(name, "")
    check(machine(kernel()), f"{name}='' hides every GPU", f"unset {name}")


@pytest.mark.parametrize(
    ("build", "found"), [(CUDA_BUILD, "is a CUDA 13.0 build"), ("", "no torch is installed")]
)
def test_another_build_of_torch(kernel, build, found):
    check(machine(kernel(), build), found, "whl/rocm7.2")


def test_a_device_that_this_user_may_not_open(kernel, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    check(machine(kernel()), "may not open /dev/kfd", "usermod -aG render,video")


def test_another_makers_chip(kernel):
    check(machine(kernel(vendor=0x1D94, name="")), "PCI vendor 0x1d94", "package that provides a backend")


def test_no_gpu_is_no_news(kernel, tmp_path):
    check(machine(kernel(gpus=0)), "the kernel shows no GPU", "amdgpu driver", Level.note)
    check(machine(tmp_path / "dev"), "no /dev/kfd", "amdgpu driver", Level.note)


def test_probing_imports_no_torch():
    code = (
        "import sys; from backends.rocm.backend import RocmBackend; RocmBackend().probe(); "
        "RocmBackend().findings(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_ray_hides_gpus_by_neither_variable():
    environment = RocmBackend().environment()
    assert environment["TORCH_DEVICE_BACKEND_AUTOLOAD"] == "0"
    assert environment["RAY_EXPERIMENTAL_NOSET_HIP_VISIBLE_DEVICES"] == "1"
    assert environment["RAY_EXPERIMENTAL_NOSET_ROCR_VISIBLE_DEVICES"] == "1"


def test_torchs_name_of_the_transport_is_not_ours():
    from backends.rocm.capability import capability_of

    assert RocmBackend.transport == "nccl"
    assert capability_of("gfx942").communicator == "rccl"
