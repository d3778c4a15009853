"""Tests marked ``ascend_emulation`` run inside the emulator; ci/ascend-emulation.sh starts it."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def torch_npu() -> ModuleType:
    """The real torch_npu, on the emulated chip."""
    if "PORTABLE_ASCEND_KERNELS" not in os.environ:
        pytest.fail("this test needs the emulator around it: run ci/ascend-emulation.sh test")
    return importlib.import_module("torch_npu")
