import os
import subprocess
import sys

import pytest

from backends.cpu.backend import CpuBackend
from backends.cpu.processor import cpu_title, usable_cores
from portable.collective.local import LocalGroup
from portable.core.errors import PortableError


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
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if world_size is not None:
        monkeypatch.setenv("WORLD_SIZE", world_size)
    assert isinstance(CpuBackend().group(1.0), LocalGroup)


def test_launchers_environment_leads_to_a_real_group(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(PortableError, match="RANK"):
        CpuBackend().group(1.0)


def test_usable_cores_follow_the_affinity():
    allowed = os.sched_getaffinity(0)
    one = min(allowed)
    try:
        os.sched_setaffinity(0, {one})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert usable_cores() == len(allowed)
