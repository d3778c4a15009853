"""A small suite is run on two made-up backends, one process each; what the session reports is checked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugins import install

BACKENDS = """
from backends.cpu.backend import CpuBackend
from portable.device.backend import Probe


class Red(CpuBackend):
    name = "red"

    def environment(self, *, deterministic=False):
        return {"COLOUR": "red", "SHADE": "light"}


class Blue(Red):
    name = "blue"

    def environment(self, *, deterministic=False):
        return {"COLOUR": "blue"}


class Grey(CpuBackend):
    name = "grey"

    def probe(self):
        return Probe(False, "cpu", "a grey chip", "nothing grey", "Buy one.")
"""
SUITE = """
import os, sys
import pytest


def test_ordinary():
    assert "COLOUR" not in os.environ


def test_place(backend_name, record_property):
    assert os.environ["COLOUR"] == backend_name
    assert os.getppid() == int(os.environ["SESSION"]) or "--in-process" in sys.argv
    print("torch" in sys.modules)


@pytest.mark.parametrize("number", [1, 2])
def test_number(backend_name, number):
    assert number < 2 or backend_name == "red", "blue is not two"


def test_skipped(backend_name):
    pytest.skip("not today")


@pytest.mark.xfail(reason="known", strict=True)
def test_expected(backend_name):
    raise ValueError


@pytest.fixture
def broken_at_the_end():
    yield
    raise RuntimeError("could not clean up")


def test_teardown(backend_name, broken_at_the_end):
    pass


def test_crash(backend_name):
    if backend_name == "blue":
        os.abort()


def test_after(backend_name):
    assert "SHADE" in os.environ or backend_name == "blue"


@pytest.mark.slow
def test_slow(backend_name):
    pass


def test_ordinary_too():
    pass
"""
INI = "[pytest]\nmarkers = slow\naddopts = -q -rA -m 'not slow'\n"
CONFTEST = """
import os
pytest_plugins = ["portable.testing.plugin"]
os.environ.setdefault("SESSION", str(os.getpid()))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    points = {"red": "colours:Red", "blue": "colours:Blue", "grey": "colours:Grey", "rust": "gone:Rust"}
    install(tmp_path / "site", "colours", {"portable.backends": points}, {"colours.py": BACKENDS})
    folder = tmp_path / "project"
    folder.mkdir()
    for name, text in {"test_it.py": SUITE, "pytest.ini": INI, "conftest.py": CONFTEST}.items():
        (folder / name).write_text(text)
    return folder


def run_pytest(project: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    site = os.pathsep.join([str(project.parent / "site"), *sys.path])
    environment = {**os.environ, "PYTHONPATH": site, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **variables}
    command = [sys.executable, "-m", "pytest", *words]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=120)


def results(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Return outcome by test from the summary lines of ``-rA``."""
    words = (line.split() for line in done.stdout.splitlines() if "test_it.py" in line)
    kinds = {"PASSED", "FAILED", "ERROR", "SKIPPED", "XFAIL"}
    return {line[1].partition("::")[2]: line[0] for line in words if line[0] in kinds}


BOTH = ("--backend", "red", "--backend", "blue")


def test_every_test_is_reported_under_its_own_name(project: Path) -> None:
    done = run_pytest(project, *BOTH)
    found = results(done)
    assert done.returncode == 1
    assert {name for name, outcome in found.items() if outcome == "PASSED"} >= {
        "test_ordinary",
        "test_ordinary_too",
        "test_place[red]",
        "test_place[blue]",
        "test_number[red-2]",
        "test_crash[red]",
        "test_after[blue]",
    }
    assert found["test_number[blue-2]"] == found["test_crash[blue]"] == "FAILED"
    assert found["test_expected[red]"] == found["test_expected[blue]"] == "XFAIL"
    assert found["test_teardown[red]"] == "ERROR"
    assert "2 failed, 12 passed, 2 skipped, 2 deselected, 2 xfailed, 2 errors" in done.stdout


def test_what_went_wrong_in_a_child_is_shown(project: Path) -> None:
    output = run_pytest(project, *BOTH).stdout
    assert "AssertionError: blue is not two" in output
    assert "could not clean up" in output
    assert "the test process of the backend 'blue' was ended by signal 6" in output
    assert "Fatal Python error: Aborted" in output


def test_devices_stay_out_of_the_session(project: Path) -> None:
    assert "True" not in run_pytest(project, *BOTH, "-k", "place").stdout


def test_the_users_own_variables_win(project: Path) -> None:
    done = run_pytest(project, "--backend", "red", "-k", "place", COLOUR="mine")
    assert "assert 'mine' == 'red'" in done.stdout


def test_selection_and_stopping_early_work_as_ever(project: Path) -> None:
    found = results(run_pytest(project, *BOTH, "-k", "number or slow", "-m", ""))
    assert len(found) == 6
    assert found["test_slow[blue]"] == "PASSED"
    found = results(run_pytest(project, *BOTH, "-x", "-k", "teardown or after"))
    assert "test_after[blue]" not in found


def test_an_unusable_backend_is_named_not_forgotten(project: Path) -> None:
    done = run_pytest(project, "-k", "place")
    assert {"test_place[red]", "test_place[blue]", "test_place[cpu]"} <= set(found := results(done))
    assert not {"test_place[grey]", "test_place[rust]"} & set(found)
    assert "backend grey not tested here: looked for a grey chip; found nothing grey. Buy one." in done.stdout
    assert (
        "backend rust not tested here: the backend 'rust' cannot be loaded (ModuleNotFoundError"
        in done.stdout
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [("grey", "found nothing grey"), ("green", "no installed package"), ("rust", "cannot be loaded")],
)
def test_asking_for_an_unusable_backend_is_an_error(project: Path, name: str, reason: str) -> None:
    done = run_pytest(project, "--backend", name)
    assert done.returncode == 4
    assert reason in done.stderr + done.stdout


def test_a_child_that_cannot_begin_fails_all_its_tests(project: Path) -> None:
    with (project / "conftest.py").open("a") as file:
        file.write('if os.environ.get("COLOUR") == "blue":\n    raise OSError("no blue today")\n')
    found = results(done := run_pytest(project, *BOTH))
    assert {found[f"test_{name}[blue]"] for name in ("place", "after", "skipped")} == {"FAILED"}
    assert found["test_place[red]"] == "PASSED"
    assert "no blue today" in done.stdout


def test_in_process_is_for_one_backend(project: Path) -> None:
    found = results(run_pytest(project, "--backend", "red", "--in-process", "-k", "place or after"))
    assert found == {"test_place[red]": "PASSED", "test_after[red]": "PASSED"}
    done = run_pytest(project, *BOTH, "--in-process")
    assert done.returncode == 4
    assert "name it, once" in done.stderr


def test_settings_change_the_hardware(project: Path) -> None:
    (project / "test_it.py").write_text("def test_title(hardware):\n    assert hardware.title == 'Mine'\n")
    words = ("--backend", "cpu", "--setting", "hardware.title=Mine")
    assert results(run_pytest(project, *words)) == {"test_title[cpu]": "PASSED"}


@pytest.fixture
def guest(project: Path, tmp_path: Path) -> Path:
    """The project tells of a package with a backend that is not installed in its environment."""
    files = {"guest.py": BACKENDS + '\n\nclass Guest(Red):\n    name = "guest"\n'}
    site = install(tmp_path / "elsewhere", "guest", {"portable.backends": {"guest": "guest:Guest"}}, files)
    with (project / "conftest.py").open("a") as file:
        file.write(f"from pathlib import Path\ndef pytest_portable_sites(): return [Path({str(site)!r})]\n")
    (project / "test_it.py").write_text("""
from portable.device.select import backend_names

def test_session():
    assert "guest" not in backend_names()

def test_child(backend_name):
    assert "guest" in backend_names()
""")
    return project


def test_a_package_beside_the_environment_takes_part_and_stays_beside_it(guest: Path) -> None:
    found = results(run_pytest(guest, "-k", "session or child"))
    assert {"test_session", "test_child[guest]", "test_child[red]", "test_child[cpu]"} <= set(found)
    assert set(found.values()) == {"PASSED"}


def test_a_package_beside_the_environment_can_be_asked_for(guest: Path) -> None:
    both = results(run_pytest(guest, "--backend", "guest", "--backend", "red"))
    assert both == dict.fromkeys(("test_session", "test_child[guest]", "test_child[red]"), "PASSED")
    alone = run_pytest(guest, "--backend", "guest", "--in-process", "-k", "child")
    assert results(alone) == {"test_child[guest]": "PASSED"}
