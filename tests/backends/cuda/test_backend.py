"""The probe against a compiled stand-in for the driver: every state of a machine is told apart."""

import subprocess
import sys
from pathlib import Path

import pytest

from backends.cuda.backend import CudaBackend
from portable.device.backend import Level
from tests.backends.stub_library import compile_stub

CUDA_BUILD = "__version__ = '2.13.0'\ncuda = '13.0'\nhip = None\n"
CPU_BUILD = "__version__ = '2.13.0+cpu'\ncuda = None\nhip = None\n"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compile_stub(Path(__file__).with_name("stub.c"), tmp_path_factory.mktemp("stub") / "libcuda.so.1")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def machine(tmp_path, library="libabsent.so.1", *, build=CUDA_BUILD, nodes=True):
    (tmp_path / "dev").mkdir()
    if nodes:
        (tmp_path / "dev/nvidia0").touch()
    version_file = tmp_path / "version.py"
    if build:
        version_file.write_text(build)
    return CudaBackend(str(library), tmp_path, version_file)


def test_a_usable_machine_names_its_hardware_file(tmp_path, library):
    backend = machine(tmp_path, library)
    probe = backend.probe()
    assert (probe.usable, probe.hardware) == (True, "cuda_h100")
    assert probe.found == "2 x NVIDIA H100 80GB HBM3 (sm_90)"
    findings = backend.findings()
    assert [finding.level for finding in findings] == [Level.good] * 3
    assert {"GPU", "NVIDIA driver", "torch for NVIDIA"} == {finding.subject for finding in findings}


def test_a_gpu_that_no_file_describes_is_usable_and_told(tmp_path, library, monkeypatch):
    monkeypatch.setenv("FAKE_NAME", "NVIDIA GeForce RTX 4090")
    monkeypatch.setenv("FAKE_MINOR", "9")
    monkeypatch.setenv("FAKE_MAJOR", "8")
    backend = machine(tmp_path, library)
    assert (backend.probe().usable, backend.probe().hardware) == (True, "cuda")
    assert backend.findings()[-1].subject == "figures"


UNUSABLE = {
    # name of the case: (environment, settings of machine(), level, found, remedy)
    "driver hides": ({"CUDA_VISIBLE_DEVICES": ""}, {}, Level.bad, "hides every GPU", "unset"),
    "driver fails": ({"FAKE_INIT": "100"}, {}, Level.bad, "CUDA_ERROR_NO_DEVICE", "nvidia-smi"),
    "driver fails namelessly": ({"FAKE_INIT": "999"}, {}, Level.bad, "error 999", "nvidia-smi"),
    "driver cannot count": ({"FAKE_COUNT_ERROR": "100"}, {}, Level.bad, "cuDeviceGetCount", "nvidia-smi"),
    "driver without a GPU": ({"FAKE_COUNT": "0"}, {"nodes": False}, Level.note, "no GPU", "nvidia-smi"),
    "CPU build": ({}, {"build": CPU_BUILD}, Level.bad, "torch 2.13.0+cpu is a CPU build", "whl/cu130"),
    "CPU build, old driver": (
        {"FAKE_DRIVER": "12040"},
        {"build": CPU_BUILD},
        Level.bad,
        "is a CPU build",
        "whl/cu126",
    ),
    "no torch": ({}, {"build": ""}, Level.bad, "no torch is installed", "pip install torch"),
    "old driver": ({"FAKE_DRIVER": "12040"}, {}, Level.bad, "driver_cuda >=13; found 12.4", "driver 580"),
    "old GPU": (
        {"FAKE_MAJOR": "7", "FAKE_NAME": "Tesla V100-SXM2-16GB"},
        {},
        Level.bad,
        "compute_capability >=7.5; found 7.0",
        "cu126",
    ),
    "another maker's chip": (
        {"FAKE_NAME": "MetaX C500", "FAKE_MAJOR": "8"},
        {},
        Level.bad,
        "calls itself 'MetaX C500'",
        "package that provides a backend",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_cannot_be_used_is_explained(case, tmp_path, library, monkeypatch):
    environment, settings, level, found, remedy = UNUSABLE[case]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    backend = machine(tmp_path, library, **settings)
    probe = backend.probe()
    assert not probe.usable
    assert found in probe.found
    assert remedy in probe.remedy
    (finding,) = backend.findings()
    assert (finding.level, finding.text, finding.remedy) == (level, probe.found, probe.remedy)


def test_nodes_without_a_library_are_a_broken_driver(tmp_path):
    (finding,) = machine(tmp_path).findings()
    assert finding.level is Level.bad
    assert finding.text.startswith("/dev/nvidia0, but")


def test_a_machine_without_any_of_it_is_no_news(tmp_path):
    backend = machine(tmp_path, nodes=False)
    assert backend.findings()[0].level is Level.note
    assert "no NVIDIA driver" in backend.probe().found


def test_probing_imports_no_torch():
    code = (
        "import sys; from backends.cuda.backend import CudaBackend; CudaBackend().probe(); "
        "CudaBackend().findings(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_environment_before_torch():
    plain, careful = (CudaBackend().environment(deterministic=flag) for flag in (False, True))
    assert plain["TORCH_DEVICE_BACKEND_AUTOLOAD"] == "0"
    assert plain["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"] == "1"
    assert careful.items() - plain.items() == {("CUBLAS_WORKSPACE_CONFIG", ":4096:8")}
