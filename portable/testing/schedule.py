"""Which tests stay together when pytest-xdist divides a session among workers.

A backend's tests go to one worker, which hands them to one child process, see ``portable.testing.isolation``;
the others go file by file, so that a file's fixtures are made once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling


def scope_of(nodeid: str, backends: Sequence[str]) -> str:
    """Return what stays together with the test: its backend, if its parameters name one, or its file."""
    parameters = re.search(r"\[(.*)\]$", nodeid)
    words = parameters[1].split("-") if parameters else []
    named = [name for name in backends if name in words]
    return f"backend {named[0]}" if named else nodeid.split("::", 1)[0]


class BackendScheduling(LoadScopeScheduling):
    """Gives a worker all tests of a backend, or all of a file."""

    def __init__(self, config: pytest.Config, log: Producer, backends: Sequence[str]) -> None:
        super().__init__(config, log)
        self._backends = backends

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid, self._backends)
