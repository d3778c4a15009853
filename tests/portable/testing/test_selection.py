"""Which backends are tested, and how they are configured."""

import pytest

from portable.core.errors import BackendUnavailable
from portable.testing import selection
from portable.testing.selection import configured_backend, hardware_of, select_backends


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
