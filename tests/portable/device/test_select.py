import os
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from portable.core.errors import BackendUnavailable
from portable.device import select
from portable.device.backend import Finding, Level, Probe
from tests import plugins


def fake(name, priority, usable):
    class Fake:
        def __init__(self):
            self.name, self.priority = name, priority

        def probe(self):
            return Probe(usable, f"hw_{name}", f"the {name} node", "nothing" if not usable else "one")

        def findings(self):
            return [] if usable else [Finding(Level.bad, "driver", "too old", "update it")]

    return Fake


class Toys:
    fast = fake("fast", 10, usable=False)
    slow = fake("slow", 1, usable=True)
    slower = fake("slower", 0, usable=True)


@pytest.fixture
def install(monkeypatch):
    select._backend.cache_clear()
    monkeypatch.setattr(select, "load_target", lambda value: getattr(Toys, value.partition(":")[2]))

    def put(*names):
        points = [EntryPoint(name, f"toys:{name}", select.GROUP) for name in names]
        monkeypatch.setattr(select, "entry_points", lambda group: points if group == select.GROUP else [])

    return put


def test_usable_backend_of_highest_priority_is_detected(install):
    install("slower", "fast", "slow")
    assert select.detect_backend().name == "slow"
    assert select.detect_hardware() == "hw_slow"
    assert select.backend_names() == ["fast", "slow", "slower"]


def test_hardware_that_is_there_but_unusable_is_not_passed_over_in_silence(install, caplog):
    install("fast", "slow")
    assert select.detect_backend().name == "slow"
    assert "fast is passed over: driver: too old. update it" in caplog.text


class DriverError(Exception):
    """As a vendor's package may define and raise."""


@pytest.mark.parametrize("error", [ImportError("no bolts"), DriverError("no bolts"), SystemExit("no bolts")])
def test_a_broken_package_does_not_keep_us_from_what_works(install, caplog, monkeypatch, error):
    install("slow", "broken")  # there is no Toys.broken

    def load(value):
        name = value.partition(":")[2]
        if name == "broken":
            raise error
        return getattr(Toys, name)

    monkeypatch.setattr(select, "load_target", load)
    assert select.detect_backend().name == "slow"
    said = f"the backend 'broken' cannot be loaded ({type(error).__name__}: no bolts)"
    assert f"{said}; see portable doctor" in caplog.text
    with pytest.raises(BackendUnavailable) as caught:
        select.load_backend("broken")
    assert str(caught.value) == said


def test_a_backend_that_fails_while_it_looks_is_passed_over_too(install, caplog, monkeypatch):
    def probe(self):
        raise DriverError("no answer")

    monkeypatch.setattr(Toys.fast, "probe", probe)
    install("fast", "slow")
    assert select.detect_backend().name == "slow"
    said = "the backend 'fast' cannot look for its hardware (DriverError: no answer)"
    assert said in caplog.text
    install("fast")
    with pytest.raises(BackendUnavailable) as caught:
        select.detect_backend()
    assert said in str(caught.value)


def test_verbs_work_where_a_package_raises_whatever_it_likes(tmp_path):
    """Its entry points name a backend, kernel rows and YAML; the package itself cannot be imported."""
    broken = "class DriverError(Exception): pass\nraise DriverError('no driver')\n"
    points = {
        "portable.backends": {"chip": "chip.backend:Chip"},
        "portable.kernels": {"chip": "chip.kernels:ENTRIES"},
        "portable.conf": {"chip": "chip.conf"},
    }
    site = plugins.install(
        tmp_path / "site", "chip", points, {"chip/__init__.py": broken, "chip/conf/a.yaml": ""}
    )
    command = [sys.executable, "-m", "portable", "pretrain", "hardware=auto", "data=none", "dry_run=true"]
    path = os.pathsep.join([str(site), *sys.path])
    done = subprocess.run(
        [*command, f"hydra.run.dir={tmp_path}/run"],
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert "the backend 'chip' cannot be loaded (DriverError: no driver)" in said
    assert "usable here   yes" in said


def test_nothing_usable_tells_what_was_looked_for_and_found(install):
    install("fast")
    with pytest.raises(BackendUnavailable, match="fast: looked for the fast node; found nothing"):
        select.detect_backend()


def test_unknown_backend_lists_the_installed_ones(install):
    install("slow", "fast")
    with pytest.raises(BackendUnavailable, match="'quick'; installed backends: fast, slow"):
        select.load_backend("quick")
    install()
    with pytest.raises(BackendUnavailable, match="installed backends: none"):
        select.load_backend("quick")


def test_installed_backends_include_the_cpu():
    assert "cpu" in select.backend_names()
    assert select.load_backend("cpu").name == "cpu"
