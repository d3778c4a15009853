"""A lock that a killed build left is removed; one of a build that goes on is not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from portable.parallel.strategies.deepspeed.extension import remove_stale_lock


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
