"""Tests are skipped where the machine lacks devices, with the reason, and run where it has them."""

from types import SimpleNamespace

import pytest

from portable.core.errors import BackendUnavailable
from portable.testing import requirement
from portable.testing.requirement import need_devices


class TwoDevices:
    index = 0

    def set_index(self, index: int) -> None:
        if index > 1:
            raise BackendUnavailable("there is no device 2")
        self.index = index


def test_a_processor_takes_any_number_of_ranks() -> None:
    need_devices("cpu", 64)


def test_what_the_machine_lacks_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    device = TwoDevices()
    backend = SimpleNamespace(device=lambda: device)
    monkeypatch.setattr(requirement, "configured_backend", lambda name: backend)
    need_devices("chip", 2)
    assert device.index == 0
    with pytest.raises(pytest.skip.Exception, match="3 ranks need 3 devices of chip, but: there is no dev"):
        need_devices("chip", 3)
