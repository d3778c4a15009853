"""Tests in ``in_process`` use the devices directly; ``test_in_process.py`` gives each file a process."""

import os

import pytest

from backends.sim.build import build

IN_PROCESS = "PORTABLE_SIM_IN_PROCESS"

collect_ignore = [] if os.environ.get(IN_PROCESS) else ["in_process"]


@pytest.fixture(scope="session")
def library():
    """The native part, compiled before any process with a time limit needs it."""
    return build()
