from __future__ import annotations

from pathlib import Path

import pytest

from backends.ascend.emulation import run
from backends.ascend.emulation.chip import find_chip

NUM_DEVICES = 4
BOOT = Path(run.__file__).parent / "boot"


@pytest.fixture(scope="session")
def emulator() -> dict[str, str]:
    """The variables of a process under the emulator; fails where torch_npu is not installed."""
    return run.environment(find_chip("910b2"), 2 << 30, NUM_DEVICES)


@pytest.fixture
def emulated(emulator: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Start the processes of a test under the emulator; returns the folder of its libraries."""
    for name, value in emulator.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HCCL_CONNECT_TIMEOUT", "30")  # a rank that fails to start ends the test soon
    monkeypatch.syspath_prepend(BOOT)  # which tests.processes hands to the processes that it starts
    return Path(emulator["ASCEND_HOME_PATH"]) / "lib64"
