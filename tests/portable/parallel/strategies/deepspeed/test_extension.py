"""A lock that a killed build left is removed; one of a build that goes on is not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from portable.core.errors import CapabilityError
from portable.parallel.strategies.deepspeed.engine import import_deepspeed
from portable.parallel.strategies.deepspeed.extension import load_file_access, remove_stale_lock
from portable.testing.runtime import make_runtime


def _lock(folder: Path, age_s: float) -> Path:
    lock = folder / "lock"
    lock.touch()
    os.utime(lock, (time.time() - age_s,) * 2)
    return lock


def test_an_old_lock_without_a_build_is_removed(tmp_path: Path):
    lock = _lock(tmp_path, 100.0)
    assert remove_stale_lock(tmp_path)
    assert not lock.exists()


def test_a_young_lock_stays(tmp_path: Path):
    lock = _lock(tmp_path, 1.0)
    assert not remove_stale_lock(tmp_path)
    assert lock.exists()


def test_the_lock_of_a_build_that_works_stays(tmp_path: Path):
    lock = _lock(tmp_path, 100.0)
    with subprocess.Popen([sys.executable, "-c", "input()"], cwd=tmp_path, stdin=subprocess.PIPE) as worker:
        assert not remove_stale_lock(tmp_path)
        worker.communicate(b"\n")
    assert lock.exists()


def test_no_lock_is_no_fault(tmp_path: Path):
    assert not remove_stale_lock(tmp_path)


def test_what_a_disk_needs_and_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("deepspeed", reason="its operators are built by it")
    device = make_runtime().device
    import_deepspeed(device)
    from deepspeed.accelerator import get_accelerator

    def without_library(name: str) -> SimpleNamespace:
        return SimpleNamespace(is_compatible=lambda verbose: False, error_log=f"{name}: no libaio.h")

    monkeypatch.setattr(get_accelerator(), "create_op_builder", without_library)
    with pytest.raises(CapabilityError, match=r"no libaio\.h.*libaio's headers.*leave strategy\.offload"):
        load_file_access(device)
