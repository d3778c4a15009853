"""Which backends are tested, and how they are configured."""

import os
import sys
from pathlib import Path

import pytest

from portable.core.errors import BackendUnavailable
from portable.device.select import backend_names
from portable.testing import selection
from portable.testing.selection import configured_backend, hardware_of, make_selection, select_backends
from tests.plugins import install


def test_usable_backends_are_selected_by_themselves() -> None:
    assert "cpu" in select_backends([])
    assert select_backends(["cpu"]) == ["cpu"]


def test_nothing_usable_is_an_error_with_the_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "backend_names", lambda: ["cpu"])
    monkeypatch.setattr(selection, "obstacle", lambda name: "no electricity")
    with pytest.raises(BackendUnavailable, match="cpu: no electricity"):
        select_backends([])
    monkeypatch.setattr(selection, "backend_names", list)
    with pytest.raises(BackendUnavailable, match="no backend at all"):
        select_backends([])


def test_one_unusable_among_those_asked_for_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "obstacle", lambda name: "" if name == "cpu" else "absent")
    with pytest.raises(BackendUnavailable, match="other: absent"):
        select_backends(["cpu", "other"])


def test_hardware_is_the_machines_with_the_sessions_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = configured_backend("cpu")
    assert hardware_of(backend).name == "cpu"
    monkeypatch.setenv(selection.SETTINGS, "'hardware.title=Two words' hardware.vendor=me")
    assert (hardware_of(backend).title, hardware_of(backend).vendor) == ("Two words", "me")


BACKEND = """
from backends.cpu.backend import CpuBackend


class Chip(CpuBackend):
    name = "chip_beside"

    def environment(self, *, deterministic=False):
        return {"CHIP": "theirs", "OTHER": "theirs"}
"""


def test_a_package_beside_the_environment_is_seen_by_its_processes_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = {"portable.backends": {"chip_beside": "chip_beside:Chip"}}
    site = install(tmp_path, "chip-beside", points, {"chip_beside.py": BACKEND})
    monkeypatch.setenv("CHIP", "mine")
    monkeypatch.setenv("PYTHONPATH", "before")
    made = make_selection(["chip_beside"], [site])
    environment = made.environment_of("chip_beside")
    assert (environment["CHIP"], environment["OTHER"]) == ("mine", "theirs")
    assert environment["PYTHONPATH"] == os.pathsep.join([str(site), "before"])
    assert "chip_beside" not in backend_names()
    assert str(site) not in sys.path
    assert "chip_beside" in make_selection([], [site]).names


def test_who_is_left_out_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "backend_names", lambda: ["cpu", "other"])
    monkeypatch.setattr(selection, "obstacle", lambda name: "" if name == "cpu" else "absent")
    made = make_selection([], [])
    assert (made.names, made.left_out) == (["cpu"], {"other": "absent"})
    assert make_selection(["cpu"], []).left_out == {}
