"""The probe against a compiled stand-in for CANN's runtime: every state of a machine is told apart."""

import builtins
import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from backends.ascend import backend as module
from backends.ascend.backend import AscendBackend, hccl_limits
from backends.ascend.driver import ask_runtime, read_cann_version
from portable.core.errors import BackendUnavailable
from portable.device.backend import Level
from tests.backends.stub_library import compile_stub

CPU_BUILD = "__version__ = '2.13.0+cpu'\ncuda = None\nhip = None\n"
CUDA_BUILD = "__version__ = '2.13.0'\ncuda = '13.0'\nhip = None\n"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stub")
    return compile_stub(Path(__file__).with_name("stub.c"), folder / "libascendcl.so")


@pytest.fixture(autouse=True)
def installed(monkeypatch, tmp_path):
    """Pretend that torch_npu 2.13.0 and CANN 9.1.0 are installed."""
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(module, "has_package", lambda name: True)
    monkeypatch.setattr(module, "package_version", lambda name: "2.13.0")
    home = tmp_path / "cann"
    home.mkdir()
    (home / "ascend_toolkit_install.info").write_text("package_name=x\nversion=9.1.0\n")
    monkeypatch.setenv("ASCEND_HOME_PATH", str(home))


def machine(tmp_path, library="libabsent.so", *, build=CPU_BUILD, nodes=True):
    (tmp_path / "dev").mkdir()
    if nodes:
        (tmp_path / "dev/davinci0").touch()
        (tmp_path / "dev/davinci_manager").touch()
    version_file = tmp_path / "version.py"
    if build:
        version_file.write_text(build)
    return AscendBackend(str(library), tmp_path, version_file)


def test_a_usable_machine_names_its_hardware_file(tmp_path, library):
    backend = machine(tmp_path, library)
    probe = backend.probe()
    assert (probe.usable, probe.hardware) == (True, "ascend_910b")
    assert probe.found == "8 x Ascend910B2, torch_npu 2.13.0"
    assert [finding.level for finding in backend.findings()] == [Level.good, Level.good]


@pytest.mark.parametrize(("soc", "file"), [("Ascend910_9392", "ascend_910c"), ("Ascend310P3", "ascend")])
def test_the_socs_name_leads_to_the_file(tmp_path, library, monkeypatch, soc, file):
    monkeypatch.setenv("FAKE_SOC", soc)
    backend = machine(tmp_path, library, nodes=False)  # as under the emulator
    assert (backend.probe().usable, backend.probe().hardware) == (True, file)


def check(backend, found, remedy, level=Level.bad):
    probe = backend.probe()
    assert not probe.usable
    assert found in probe.found
    assert remedy in probe.remedy
    (finding,) = backend.findings()
    assert (finding.level, finding.text, finding.remedy) == (level, probe.found, probe.remedy)


def test_no_npu_is_no_news(tmp_path):
    check(machine(tmp_path, nodes=False), "no CANN", "hiascend.com/cann", Level.note)


def test_nodes_without_the_runtime_are_a_setting_that_is_missing(tmp_path):
    check(machine(tmp_path), "/dev/davinci0, but CANN's runtime does not load", "set_env.sh")


@pytest.mark.parametrize(
    ("environment", "found", "remedy"),
    [
        ({"ASCEND_RT_VISIBLE_DEVICES": ""}, "hides every NPU", "unset ASCEND_RT_VISIBLE_DEVICES"),
        ({"FAKE_COUNT": "0"}, "CANN, but no NPU", "npu-smi"),
        ({"FAKE_ERROR": "507899"}, "aclrtGetDeviceCount failed with 507899", "npu-smi"),
        ({"FAKE_SOC": "Ascend1024X"}, "'Ascend1024X'", "add it"),
    ],
)
def test_what_the_runtime_says_against_it(tmp_path, library, monkeypatch, environment, found, remedy):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    check(machine(tmp_path, library), found, remedy)


def test_two_accelerators_in_one_process_are_refused_before_torch_is_imported(tmp_path, library):
    backend = machine(tmp_path, library, build=CUDA_BUILD)
    check(backend, "is a CUDA 13.0 build: torch drives one kind", "whl/cpu")


def test_torch_npu_that_is_not_there_or_does_not_fit(tmp_path, library, monkeypatch):
    backend = machine(tmp_path, library)
    monkeypatch.setattr(module, "package_version", lambda name: "2.12.0")
    check(backend, "torch_npu 2.12.0 goes with torch ==2.12.0; found 2.13.0+cpu", "install torch ==2.12.0")
    monkeypatch.setattr(module, "has_package", lambda name: False)
    check(backend, "torch_npu is not installed", "portable-llm[ascend]")
    (tmp_path / "version.py").unlink()
    check(backend, "but torch", "portable-llm[ascend]")


def test_a_cann_that_may_be_too_old_is_a_note(tmp_path, library, monkeypatch):
    home = tmp_path / "cann"
    (home / "ascend_toolkit_install.info").write_text("version=8.3.RC1\n")
    backend = machine(tmp_path, library)
    assert backend.probe().usable
    (note,) = [finding for finding in backend.findings() if finding.level is Level.note]
    assert "cann >=9.1; found 8.3.RC1 (assumed" in note.text
    monkeypatch.delenv("ASCEND_HOME_PATH")
    assert "not found: cann" in backend.findings()[-1].text


def test_canns_version_is_read_where_installers_put_it(tmp_path):
    assert read_cann_version(None) is None
    assert read_cann_version(tmp_path) is None
    file = tmp_path / "x86_64-linux/ascend_toolkit_install.info"
    file.parent.mkdir()
    file.write_text("arch=x86_64\nversion = 9.0.0\n")
    assert read_cann_version(tmp_path) == "9.0.0"


def test_the_runtime_is_started_only_if_it_asks_for_it(library, monkeypatch):
    runtime = ctypes.CDLL(str(library))
    assert ask_runtime(runtime).count == 8
    assert runtime.times_started() == 0
    monkeypatch.setenv("FAKE_NEEDS_INIT", "1")
    assert ask_runtime(runtime).count == 8
    assert runtime.times_started() == 1


def test_a_torch_npu_that_cannot_be_imported_is_explained(tmp_path, library, monkeypatch):
    real = builtins.__import__

    def broken(name, *arguments):
        if name == "torch_npu":
            raise ImportError("libhccl.so: cannot open shared object file")
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", broken)
    monkeypatch.delitem(sys.modules, "backends.ascend.device", raising=False)
    with pytest.raises(BackendUnavailable, match=r"libhccl\.so.*set_env\.sh"):
        machine(tmp_path, library).new_device()


def test_probing_imports_no_torch():
    code = (
        "import sys; from backends.ascend.backend import AscendBackend; AscendBackend().probe(); "
        "AscendBackend().findings(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_environment_before_torch():
    plain, careful = (AscendBackend().environment(deterministic=flag) for flag in (False, True))
    assert plain["TORCH_DEVICE_BACKEND_AUTOLOAD"] == "0"
    assert plain["RAY_EXPERIMENTAL_NOSET_ASCEND_RT_VISIBLE_DEVICES"] == "1"
    assert {name: value for name, value in careful.items() if name not in plain} == {
        "HCCL_DETERMINISTIC": "true",
        "LCCL_DETERMINISTIC": "1",
        "CLOSE_MATMUL_K_SHIFT": "1",
    }


def test_it_stands_before_those_that_it_may_make_answer():
    from backends.cuda.backend import CudaBackend
    from backends.rocm.backend import RocmBackend

    assert AscendBackend.priority > RocmBackend.priority > CudaBackend.priority > 0


@pytest.mark.parametrize(
    ("timeout_s", "collective", "connect"), [(6.0, "3", "120"), (600.0, "594", "594"), (9000, "8994", "7200")]
)
def test_hccl_waits_no_longer_than_the_group(timeout_s, collective, connect):
    assert hccl_limits(timeout_s) == {"HCCL_EXEC_TIMEOUT": collective, "HCCL_CONNECT_TIMEOUT": connect}
