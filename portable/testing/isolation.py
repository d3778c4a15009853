"""One process, one backend: the tests of each run in a pytest of their own and are reported in this one.

Torch has room for one out-of-tree device type in a process, for good, and vendors' extensions change torch
while they load. So the session that people start never touches a device. It hands the tests of a backend to a
child process and replays the child's reports as if they were its own, one by one, under the same ids.
A child that dies fails the test that it was in, and another child goes on with the rest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import pytest

from portable.testing.selection import Selection

_TAIL_LINES = 40
_WAIT_S = 30.0  # from a child's last report to its end


def backend_of(item: pytest.Item) -> str | None:
    """Return the backend that a test is about, or None for an ordinary test."""
    call = getattr(item, "callspec", None)
    return None if call is None else call.params.get("backend_name")


def report_to_parent(config: pytest.Config, descriptor: int) -> None:
    """Let this session write what happens to ``descriptor``, one JSON value a line."""
    config.pluginmanager.register(_ChildSide(config, descriptor), "portable-child")


class _ChildSide:
    """Tells the parent which test starts, and what came of each phase of it."""

    def __init__(self, config: pytest.Config, descriptor: int) -> None:
        self._config = config
        self._out = os.fdopen(descriptor, "w", encoding="utf-8")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._tell("start", nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._tell("report", report.nodeid, data)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._tell("finish", nodeid)

    def _tell(self, what: str, nodeid: str, data: dict[str, Any] | None = None) -> None:  # Any: JSON values
        self._out.write(json.dumps([what, nodeid, data]) + "\n")
        self._out.flush()


class ParentSide:
    """Replaces the running of a backend's tests by the replay of a child's reports."""

    def __init__(self, config: pytest.Config, selection: Callable[[], Selection]) -> None:
        self._config = config
        self._selection = selection
        self._child: _Child | None = None
        self._waiting: list[pytest.Item] = []

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Put the tests of backends before the ordinary ones, backend by backend: they take longest."""
        names = {name: place for place, name in enumerate(dict.fromkeys(map(backend_of, items)))}
        items.sort(key=lambda item: (backend_of(item) is None, names[backend_of(item)]))
        self._waiting = [item for item in items if backend_of(item) is not None]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Replay one test from its backend's child; ordinary tests are left to pytest."""
        name = backend_of(item)
        if name is None:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._child_for(name, item).reports_of(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        self._waiting.remove(item)
        return True

    def pytest_sessionfinish(self) -> None:
        """End the last child, also when the session stops early."""
        self._close()

    def _child_for(self, name: str, item: pytest.Item) -> _Child:
        if self._child is None or self._child.lost or self._child.backend != name:
            self._close()
            batch = [other for other in self._waiting if backend_of(other) == name]
            self._child = _Child(self._config, name, batch, self._selection().environment_of(name))
        return self._child

    def _close(self) -> None:
        if self._child is not None:
            name = self._child.backend
            self._child.close(done=all(backend_of(item) != name for item in self._waiting))
            self._child = None


class _Child:
    """A pytest process with one backend."""

    def __init__(
        self, config: pytest.Config, backend: str, items: list[pytest.Item], environment: dict[str, str]
    ) -> None:
        self.backend = backend
        self.lost = False
        self._config = config
        self._obstacle = ""
        self._resources = ExitStack()
        folder = Path(self._resources.enter_context(tempfile.TemporaryDirectory()))
        names, self._log = folder / "names", folder / "log"
        names.write_text("\n".join(item.nodeid for item in items), encoding="utf-8")
        reader, writer = os.pipe()
        self._reports: dict[str, list[Any]] = {}  # Any: JSON values, by test
        self._finished: set[str] = set()
        self._lines: IO[str] = self._resources.enter_context(os.fdopen(reader, encoding="utf-8"))
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                _command(config, backend, writer, names),
                cwd=config.rootpath,
                env=environment,
                pass_fds=(writer,),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        os.close(writer)

    def reports_of(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        """Yield the reports of one test as the child makes them, or one that says how the child ended."""
        started = item.nodeid in self._reports
        while item.nodeid not in self._finished and (line := self._lines.readline()):
            what, nodeid, data = json.loads(line)
            started = started or nodeid == item.nodeid
            if what == "report":
                self._reports.setdefault(nodeid, []).append(data)
            elif what == "finish":
                self._finished.add(nodeid)
        for data in self._reports.pop(item.nodeid, []):
            if isinstance(data["longrepr"], list):  # where and why a test was skipped; JSON has no tuples
                data["longrepr"] = tuple(data["longrepr"])
            yield self._config.hook.pytest_report_from_serializable(config=self._config, data=data)
        if item.nodeid not in self._finished:
            self.lost = started  # one that did not come to this test would not come to it the next time
            self._obstacle = self._obstacle or self._how_it_ended()
            yield _failure(item, self._obstacle)

    def close(self, *, done: bool) -> None:
        """Let a child that has done its tests end; kill one that has not."""
        try:
            self._process.wait(_WAIT_S if done else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._resources.close()

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"the test process of the backend '{self.backend}' {how} before this test was done\n{tail}"


def _command(config: pytest.Config, backend: str, descriptor: int, names: Path) -> list[str]:
    """Return the child's command: this session's configuration, its selection already made."""
    command = [sys.executable, "-m", "pytest", "-p", "portable.testing.plugin", "--in-process"]
    command += ["--backend", backend, "--report-to", str(descriptor), "-o", "addopts="]
    command += ["--rootdir", str(config.rootpath), "-p", "no:cacheprovider"]
    command += [f"--import-mode={config.option.importmode}", f"--tb={config.option.tbstyle}"]
    if config.inipath is not None:
        command += ["-c", str(config.inipath)]
    command += ["-v"] * max(config.option.verbose, 0)
    return [*command, f"@{names}"]


def _failure(item: pytest.Item, text: str) -> pytest.TestReport:
    return pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "call")
