"""Which backends a test session is about, and how they are configured."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from functools import cache

from portable.config.load import load
from portable.core.errors import BackendUnavailable
from portable.device.backend import Backend
from portable.device.select import backend_names, load_backend
from portable.hardware.spec import HardwareConfig

SETTINGS = "PORTABLE_TEST_SETTINGS"  # overrides of the hardware file; an environment variable, for children


def select_backends(asked: Sequence[str]) -> list[str]:
    """Return ``asked``, or every registered backend that is usable here.

    Raises: BackendUnavailable for one that was asked for and cannot be used, or if there is none.
    """
    obstacles = {name: obstacle(name) for name in asked or backend_names()}
    usable = [name for name, reason in obstacles.items() if not reason]
    if not usable or (asked and len(usable) < len(obstacles)):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in obstacles.items() if reason)
        raise BackendUnavailable(f"the contract cannot be tested on {reasons or 'no backend at all'}")
    return usable


def obstacle(name: str) -> str:
    """Return why the backend cannot be used here, or ""."""
    try:
        probe = load_backend(name).probe()
    except (ImportError, AttributeError) as error:  # somebody else's broken package
        return f"it cannot be loaded: {error}"
    if probe.usable:
        return ""
    return f"looked for {probe.looked_for}; found {probe.found}. {probe.remedy}".strip()


def configured_backend(name: str) -> Backend:
    """Return the backend, configured as a job on this machine would configure it."""
    backend = load_backend(name)
    backend.configure(hardware_of(backend))
    return backend


def hardware_of(backend: Backend) -> HardwareConfig:
    """Return the hardware file that ``backend`` finds for this machine, with the session's overrides."""
    return _hardware(backend.probe().hardware, os.environ.get(SETTINGS, ""))


@cache
def _hardware(name: str, settings: str) -> HardwareConfig:
    return load("chat", [f"hardware={name}", "model_path=none", *shlex.split(settings)]).hardware
