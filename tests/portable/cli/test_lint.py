"""``portable lint`` as people and CI use it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from portable.cli.lint import run_lint
from portable.core.errors import ConfigError, DataError

ROOT = Path(__file__).parents[3]
FAULTY = "device = 'cuda'\nx.cuda()\n"


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    path = tmp_path / "a.py"
    path.write_text(FAULTY)
    return path


def test_exit_codes(faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    clean = tmp_path / "clean.py"
    clean.write_text("x = 1\n")
    assert run_lint([str(clean)]) == 0
    assert run_lint([str(faulty)]) == 1
    assert run_lint([str(faulty), "--ignore", "P01"]) == 0
    assert run_lint([str(faulty), "--select", "P02,P04"]) == 0
    assert run_lint([str(tmp_path)]) == 1
    assert "2 findings in 1 of 2 files" in capsys.readouterr().out


def test_a_file_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "a.py").write_text(FAULTY)
    loop = tmp_path / "b.py"
    loop.symlink_to(loop)
    assert run_lint([str(tmp_path)]) == 1  # what is no file is none of ours
    with pytest.raises(DataError, match=r"b\.py does not exist"):
        run_lint([str(loop)])
    pipe = tmp_path / "c"
    pipe.mkdir()
    (pipe / "d.py").write_text("x = 1")
    assert run_lint([str(pipe / "d.py")]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("form", ["--json", "--sarif", "--statistics", ""])
def test_an_unreadable_file_is_exit_code_2_in_every_form(
    form: str, faulty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert run_lint([str(faulty), *([form] if form else [])]) == 2
    shown = capsys.readouterr()
    assert "a.py cannot be read: Permission denied" in shown.err
    if form in {"--json", "--sarif"}:
        assert "Permission denied" in shown.out
        json.loads(shown.out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which files or folders"),
        (["--select", "P99", "."], "no rule 'P99'"),
        (["--ignore", "p01", "."], "no rule 'p01'"),
        (["--explain", "P1"], "no rule 'P1'.*Did you mean"),
        (["--no-such-option", "."], "unrecognized arguments"),
        (["--json", "--sarif", "."], "not allowed with"),
        (["--jobs", "many", "."], "invalid int"),
    ],
)
def test_wrong_command_lines(arguments: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        run_lint(arguments)


def test_forms(faulty: Path, capsys: pytest.CaptureFixture[str]):
    assert run_lint(["--json", str(faulty)]) == 1
    assert [item["line"] for item in json.loads(capsys.readouterr().out)["findings"]] == [1, 2]
    assert run_lint(["--sarif", str(faulty)]) == 1
    assert json.loads(capsys.readouterr().out)["version"] == "2.1.0"
    assert run_lint(["--statistics", str(faulty)]) == 1
    assert capsys.readouterr().out.startswith("2  P01  ")
    assert run_lint(["--explain", "P28"]) == 0
    assert capsys.readouterr().out.startswith("P28: ")


def test_diff_then_fix(faulty: Path, capsys: pytest.CaptureFixture[str]):
    assert run_lint(["--diff", str(faulty)]) == 1
    shown = capsys.readouterr()
    assert "-x.cuda()\n+x.to(device)\n" in shown.out
    assert "1 fix possible" in shown.err
    assert faulty.read_text() == FAULTY
    assert run_lint(["--fix", str(faulty)]) == 1  # the text in line 1 is for people to mend
    assert "1 fix made" in capsys.readouterr().err
    assert faulty.read_text() == "device = 'cuda'\nx.to(device)\n"
    assert run_lint(["--diff", str(faulty)]) == 0


def test_unsafe_fixes_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "a.py"
    path.write_text("def f(x, device):\n    return x.cuda()\n")
    assert run_lint(["--fix", str(path)]) == 1
    assert run_lint(["--fix", "--unsafe-fixes", str(path)]) == 0
    assert path.read_text().endswith("x.to(device)\n")
    capsys.readouterr()


def test_many_files_are_shared_among_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for number in range(210):
        (tmp_path / f"{number:03}.py").write_text(FAULTY if number % 2 else "x = 1\n")
    assert run_lint([str(tmp_path), "--jobs", "2", "--json"]) == 1
    shared = capsys.readouterr().out
    assert run_lint([str(tmp_path), "--jobs", "1", "--json"]) == 1
    assert capsys.readouterr().out == shared
    assert json.loads(shared)["files"] == 210
    assert len(json.loads(shared)["findings"]) == 210


def test_our_own_code_is_clean(capsys: pytest.CaptureFixture[str]):
    assert run_lint([str(ROOT / "portable"), "--strict-ignores"]) == 0, capsys.readouterr().out
    capsys.readouterr()


def test_it_starts_without_torch():
    code = (
        "import sys; from portable.cli.main import main\n"
        f"main(['lint', {__file__!r}]); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
