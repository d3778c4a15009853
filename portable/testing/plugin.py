"""The pytest plug-in: whatever asks for ``backend_name`` runs once per backend.

In the ``conftest.py`` of a package with a backend of its own::

    pytest_plugins = ["portable.testing.plugin"]

Then ``pytest --backend NAME`` runs the contract on that backend, and without the option on every registered
one that is usable here. Each backend's tests run in a process of its own, see ``portable.testing.isolation``.
A package that is not installed takes part if ``pytest_portable_sites`` tells where it is.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from portable.core.errors import PortableError
from portable.device.backend import Backend
from portable.device.protocol import Device
from portable.device.select import backend_names
from portable.hardware.spec import HardwareConfig
from portable.testing import selection
from portable.testing.isolation import ParentSide, report_to_parent

pytest.register_assert_rewrite(
    *(
        f"portable.testing.{suite}"
        for suite in ("device", "collective", "kernel", "strategy", "engine", "process")
    )
)

if TYPE_CHECKING:
    from xdist.remote import Producer

    from portable.testing.schedule import BackendScheduling

_SELECTION = pytest.StashKey[selection.Selection]()


class Hooks:
    """What a ``conftest.py`` or another plug-in may answer."""

    def pytest_portable_sites(self, config: pytest.Config) -> Sequence[Path]:
        """Return folders with installed packages whose backends take part in the contract.

        Only processes that test backends see them. Not asked where all of ``--backend`` is installed.
        """
        return ()  # nobody calls this: pytest reads the signature, and gathers the answers


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Add our hooks."""
    pluginmanager.add_hookspecs(Hooks)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options."""
    group = parser.getgroup("portable", "contract of backends")
    group.addoption(
        "--backend",
        action="append",
        default=[],
        metavar="NAME",
        help="test this backend (repeatable; default: every registered one that is usable here)",
    )
    group.addoption(
        "--setting",
        action="append",
        default=[],
        metavar="OVERRIDE",
        help="change the hardware's settings, e.g. sim.memory_gib=1 (repeatable)",
    )
    group.addoption(
        "--in-process",
        action="store_true",
        help="run the one backend named by --backend in this process, for a debugger",
    )
    group.addoption("--report-to", type=int, metavar="FD", help="for our own child processes")


def pytest_configure(config: pytest.Config) -> None:
    """Prepare this process for its backend, or for handing backends to processes of their own."""
    if settings := config.getoption("setting"):
        os.environ[selection.SETTINGS] = shlex.join(settings)
    if config.getoption("backend"):
        selected(config)  # so that a wrong name is told before anything is collected
    if not config.getoption("in_process"):
        config.pluginmanager.register(ParentSide(config, lambda: selected(config)), "portable-parent")
        return
    (name,) = selected(config).names[:1]
    if config.getoption("backend") != [name]:
        raise pytest.UsageError("--in-process holds one backend; name it, once, by --backend NAME")
    sys.path[:0] = map(str, selected(config).sites)
    for variable, value in selected(config).environment_of(name).items():
        os.environ.setdefault(variable, value)
    if (descriptor := config.getoption("report_to")) is not None:
        report_to_parent(config, descriptor)


def selected(config: pytest.Config) -> selection.Selection:
    """Return the backends of this session. Raises: UsageError if one that was asked for is not usable."""
    if _SELECTION not in config.stash:
        asked: list[str] = config.getoption("backend") or []
        try:
            sites = [] if asked and set(asked) <= set(backend_names()) else _sites(config)
            config.stash[_SELECTION] = selection.make_selection(asked, sites)
        except PortableError as error:
            raise pytest.UsageError(str(error)) from error
    return config.stash[_SELECTION]


def _sites(config: pytest.Config) -> list[Path]:
    return [site for sites in config.hook.pytest_portable_sites(config=config) for site in sites]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Multiply what asks for a backend, directly or through a fixture."""
    if "backend_name" in metafunc.fixturenames:
        metafunc.parametrize("backend_name", selected(metafunc.config).names, indirect=True, scope="session")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which backends were left out, and why: a contract that was not tested must not look green."""
    if _SELECTION in config.stash:
        for name, reason in selected(config).left_out.items():
            terminalreporter.write_line(f"backend {name} not tested here: {reason}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> BackendScheduling:
    """Keep a backend's tests on one worker of pytest-xdist, whatever ``--dist`` says."""
    from portable.testing.schedule import BackendScheduling  # needs pytest-xdist, which calls this hook

    return BackendScheduling(config, log, selected(config).names)


@pytest.fixture(scope="session")
def backend_name(request: pytest.FixtureRequest) -> str:
    """The backend that this test is about."""
    return request.param


@pytest.fixture(scope="session")
def backend(backend_name: str) -> Backend:
    """The backend, configured by ``hardware``."""
    return selection.configured_backend(backend_name)


@pytest.fixture(scope="session")
def hardware(backend: Backend) -> HardwareConfig:
    """The hardware file that the backend found for this machine."""
    return selection.hardware_of(backend)


@pytest.fixture(scope="session")
def device(backend: Backend) -> Device:
    """The backend's device family."""
    return backend.device()
