"""Names are for good, and what is missing is told."""

import pytest

from backends.sim.build import build
from portable.core.errors import BackendUnavailable
from portable.testing.process import run_processes

CASE = "tests.backends.sim.case_runtime:"


def test_a_second_call_with_the_same_names_changes_nothing(library, tmp_path):
    (found,) = run_processes(CASE + "twice", 1, tmp_path)
    assert found["same"]
    assert "3 devices 'chip' with the communicator 'chipccl'" in found["message"]
    assert found["device"] == "chip:2"
    assert found["communicator"] == "chipccl"


def test_a_process_with_another_plug_in_is_refused(tmp_path):
    (message,) = run_processes(CASE + "taken", 1, tmp_path)
    assert "'other'" in message
    assert "start another process" in message


def test_without_a_compiler_the_message_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PORTABLE_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(BackendUnavailable, match=r"no C\+\+ compiler.*apt install g\+\+"):
        build()
