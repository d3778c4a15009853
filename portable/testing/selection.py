"""Which backends a test session is about, and how they are configured."""

from __future__ import annotations

import importlib
import os
import shlex
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from portable.config.load import load
from portable.core.errors import BackendUnavailable
from portable.device.backend import Backend
from portable.device.select import backend_names, load_backend
from portable.hardware.spec import HardwareConfig

SETTINGS = "PORTABLE_TEST_SETTINGS"  # overrides of the hardware file; an environment variable, for children


@dataclass(frozen=True, slots=True)
class Selection:
    """The backends of a session: what the processes that test them need, and why others are left out."""

    environments: dict[str, dict[str, str]]  # of each selected backend, in the order of testing
    left_out: dict[str, str]  # reason by name
    sites: Sequence[Path]  # folders with installed packages that only those processes see

    @property
    def names(self) -> list[str]:
        """The selected backends."""
        return list(self.environments)

    def environment_of(self, name: str) -> dict[str, str]:
        """Return the whole environment of a process that tests ``name``; the user's variables win."""
        path = [*map(str, self.sites), os.environ.get("PYTHONPATH", "")]
        found = {"PYTHONPATH": os.pathsep.join(filter(None, path))} if self.sites else {}
        return {**self.environments[name], **os.environ, **found}


def make_selection(asked: Sequence[str], sites: Sequence[Path]) -> Selection:
    """Look for the backends of this environment and of ``sites``.

    Raises: BackendUnavailable for one that was asked for and cannot be used, or if there is none.
    """
    with on_path(sites):
        names = select_backends(asked)
        others = [] if asked else sorted(set(backend_names()) - set(names))
        environments = {name: load_backend(name).environment(deterministic=True) for name in names}
        return Selection(environments, {name: obstacle(name) for name in others}, sites)


@contextmanager
def on_path(sites: Sequence[Path]) -> Generator[None]:
    """Let this process find what is installed in ``sites``, for a while."""
    words = [str(site) for site in sites]
    sys.path[:0] = words
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for word in words:
            sys.path.remove(word)


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
    except BackendUnavailable as error:  # somebody else's broken package
        return str(error)
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
