import subprocess
import sys

import pytest

from backends.cpu.backend import CpuBackend
from backends.cpu.processor import cpu_title, usable_cores
from portable.collective.local import LocalGroup
from portable.core.errors import ConfigError, PortableError
from portable.hardware.spec import HardwareConfig


def test_probe_is_usable_tells_the_processor_and_imports_no_torch():
    code = (
        "import sys; from backends.cpu.backend import CpuBackend; p = CpuBackend().probe(); print(p.found);"
        "sys.exit(not p.usable or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{cpu_title()} with {usable_cores()} usable cores"


@pytest.mark.parametrize("world_size", [None, "1"])
def test_alone_without_a_launcher(monkeypatch, world_size):
    place = {"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in ({"WORLD_SIZE": world_size} | place).items():
        monkeypatch.delenv(name, raising=False)
        if world_size is not None:
            monkeypatch.setenv(name, value)
    assert isinstance(CpuBackend().group(1.0), LocalGroup)


def test_launchers_environment_leads_to_a_real_group(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(PortableError, match="RANK"):
        CpuBackend().group(1.0)


def test_a_processor_is_only_like_itself():
    CpuBackend().configure(HardwareConfig(name="cpu", backend="cpu"))
    with pytest.raises(ConfigError, match="hardware=sim"):
        CpuBackend().configure(HardwareConfig(name="cpu", backend="cpu", like="ascend_910b"))


def test_findings_are_about_this_machine():
    found = {finding.subject: finding.text for finding in CpuBackend().findings()}
    assert cpu_title() in found["processor"]


@pytest.mark.parametrize("deterministic", [False, True])
def test_waiting_threads_sleep_and_plugins_stay_out(deterministic):
    expected = {"OMP_WAIT_POLICY": "passive", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    assert CpuBackend().environment(deterministic=deterministic) == expected
