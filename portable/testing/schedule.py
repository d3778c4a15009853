"""Which tests stay together when pytest-xdist divides a session among workers, and what comes first.

A backend's tests go to one worker, which hands them to one child process, see ``portable.testing.isolation``.
The others go file by file, so that a file's fixtures are made once; the files of a folder that has a
``conftest.py`` go together, for that is where a folder keeps what several files share and what costs most.
Work is given out in the order of collection, which begins with the largest pieces: the backends.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling


def scope_of(nodeid: str, backends: Sequence[str], root: Path) -> str:
    """Return what stays together with the test: its backend, if its parameters name one, its folder or file.

    ``root`` is the folder that test ids are relative to.
    """
    parameters = re.search(r"\[(.*)\]$", nodeid)
    words = parameters[1].split("-") if parameters else []
    if named := [name for name in backends if name in words]:
        return f"backend {named[0]}"
    file = nodeid.split("::", 1)[0]
    folder = Path(file).parent
    return folder.as_posix() if (root / folder / "conftest.py").exists() else file


class BackendScheduling(LoadScopeScheduling):
    """Gives a worker all tests of a backend, all of a file, or all of a folder that shares fixtures."""

    def __init__(self, config: pytest.Config, log: Producer, backends: Sequence[str]) -> None:
        super().__init__(config, log)
        self._backends = backends
        # By number of tests, a long test in a file of its own would come last and keep one worker alone.
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid, self._backends, self.config.rootpath)
