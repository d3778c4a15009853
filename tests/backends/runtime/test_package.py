"""Optional packages: absent, incomplete, broken."""

import sys
from pathlib import Path

import pytest

from backends.runtime.package import import_engine
from portable.core.errors import BackendUnavailable


def install(path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    (path / "strange_engine.py").write_text(source)
    monkeypatch.syspath_prepend(str(path))
    monkeypatch.delitem(sys.modules, "strange_engine", raising=False)


def test_a_package_that_is_there_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "VERSION = 3")
    assert import_engine("strange_engine", "strange").VERSION == 3


def test_an_absent_package_is_told_with_the_command_that_installs_it() -> None:
    with pytest.raises(
        BackendUnavailable,
        match=r"'no_such_engine', which is not installed; run: pip install 'portable-llm\[none\]'",
    ):
        import_engine("no_such_engine", "none")


def test_a_package_that_lacks_another_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "import no_such_dependency")
    with pytest.raises(BackendUnavailable, match="it lacks 'no_such_dependency'; repair it"):
        import_engine("strange_engine", "strange")


@pytest.mark.parametrize("error", ["ImportError('undefined symbol')", "OSError('libdriver.so')"])
def test_a_broken_build_says_what_broke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str) -> None:
    install(tmp_path, monkeypatch, f"raise {error}")
    with pytest.raises(BackendUnavailable, match=r"cannot be imported \((undefined symbol|libdriver.so)\)"):
        import_engine("strange_engine", "strange")
