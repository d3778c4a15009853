import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch

from backends.cpu.memory import PeakMeter, return_freed_memory, total_and_free_bytes, used_bytes

MIB = 2**20


@pytest.fixture
def machine(monkeypatch):
    figures = SimpleNamespace(total=1000 * MIB, available=600 * MIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: figures)


def cgroup(folder, limit, current=0, inactive=0):
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\nslab 3\n")
    return folder


@pytest.mark.usefixtures("machine")
def test_machine_figures_without_a_container_limit(tmp_path):
    assert total_and_free_bytes(tmp_path) == (1000 * MIB, 600 * MIB)
    assert total_and_free_bytes(cgroup(tmp_path, "max")) == (1000 * MIB, 600 * MIB)
    assert total_and_free_bytes(cgroup(tmp_path, 2000 * MIB)) == (1000 * MIB, 600 * MIB)


@pytest.mark.usefixtures("machine")
def test_container_limit_counts_when_it_is_lower(tmp_path):
    # Of 200 MiB in use, 50 are page cache that would be given up.
    assert total_and_free_bytes(cgroup(tmp_path, 300 * MIB, 200 * MIB, 50 * MIB)) == (300 * MIB, 150 * MIB)
    assert total_and_free_bytes(cgroup(tmp_path, 900 * MIB, 0)) == (900 * MIB, 600 * MIB)
    assert total_and_free_bytes(cgroup(tmp_path, 300 * MIB, 400 * MIB))[1] == 0
    (tmp_path / "memory.stat").unlink()
    assert total_and_free_bytes(cgroup(tmp_path, 300 * MIB, 100 * MIB)) == (300 * MIB, 200 * MIB)


def test_used_memory_grows_with_a_tensor():
    return_freed_memory()
    before = used_bytes()
    kept = torch.ones(64 * MIB // 4)
    assert used_bytes() - before > 48 * MIB
    del kept


def test_peak_remembers_what_was_freed_until_reset():
    return_freed_memory()  # a test before may have let it be kept
    meter = PeakMeter()
    meter.reset()
    before = meter.read()
    if before is None:  # a sandbox that forbids the reset: then no peak may be told ever after
        meter.reset()
        assert meter.read() is None
        return
    kept = torch.ones(64 * MIB // 4)
    del kept
    peak = meter.read()
    assert peak - before > 48 * MIB
    return_freed_memory()
    meter.reset()
    assert meter.read() < peak - 32 * MIB


def test_no_peak_is_told_once_a_reset_was_refused(tmp_path):
    (tmp_path / "status").write_text("Name: x\nVmHWM:\t    2048 kB\n")
    (tmp_path / "clear_refs").mkdir()  # writing to it fails
    meter = PeakMeter(tmp_path)
    assert meter.read() == 2 * MIB
    meter.reset()
    assert meter.read() is None


def test_peak_comes_from_rusage_where_there_is_no_proc(tmp_path):
    assert PeakMeter(tmp_path).read() >= used_bytes() / 2


def test_a_step_that_repeats_touches_no_new_pages_and_can_give_them_back():
    # In a process of its own: the setting cannot be taken back.
    code = """
import resource
import torch
from backends.cpu.memory import keep_freed_memory, return_freed_memory, used_bytes

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        tensors = [torch.ones(12 << 20) for _ in range(2)]  # 48 MiB each
        del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
untouched = faults()
keep_freed_memory()
faults(), faults()
kept, held = faults(), used_bytes()
return_freed_memory()
print(untouched, kept, held - used_bytes())
"""
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    untouched, kept, returned = map(int, ran.stdout.split())
    assert kept < untouched / 100
    assert returned > 50 * MIB
