"""The page is followed to the letter: its commands run in order, and the example needs no change of ours."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.example import ROOT, install_example

EXAMPLE = ROOT / "docs" / "examples" / "acme"
PAGE = (ROOT / "docs" / "add-a-backend.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the example as the page says, beside this environment instead of into it."""
    return install_example(tmp_path_factory.mktemp("acme"), COMMANDS[0])


def follow(command: str, site: Path, cwd: Path = ROOT) -> str:
    """Run a command of the page where the example is installed; return what it said."""
    words = [sys.executable, "-m", *shlex.split(command)]
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def command(word: str) -> str:
    (found,) = [line for line in COMMANDS if line.startswith(word)]
    return found


def test_the_page_has_five_steps_and_these_tests_follow_every_command() -> None:
    assert re.findall(r"^## (\d)\.", PAGE, re.MULTILINE) == ["1", "2", "3", "4", "5"]
    starts = ["pip install", "portable doctor", "portable pretrain", "pytest", "portable run"]
    assert [line.startswith(start) for line, start in zip(COMMANDS, starts, strict=True)] == [True] * 5


def test_the_page_quotes_the_files_as_they_are() -> None:
    quoted = re.findall(r"```(?:toml|python)\n# (\S+)\n(.*?)```", PAGE, re.DOTALL)
    assert len(quoted) == 2
    for name, text in quoted:
        content = (ROOT / name).read_text(encoding="utf-8").replace("  # noqa: F403", "")
        assert text.strip() in content, name


def test_the_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", PAGE)
    assert targets
    for target in targets:
        assert (ROOT / "docs" / target).exists(), target


def test_nothing_of_ours_names_the_chip() -> None:
    """Adding it changed nothing outside its own folder: no source, setting or entry point knows it."""
    for folder in ("portable", "backends", "conf"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".yaml", ".cpp", ".h"}:
                assert "acme" not in path.read_text(encoding="utf-8").lower(), path
    own = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "acme" not in str(own)


def test_the_doctor_finds_it(site: Path) -> None:
    said = follow(command("portable doctor"), site)
    assert "✓ acme  4 x Acme One (acme1)" in said
    assert "acme_lean for rms_norm" in " ".join(said.split())  # the page breaks lines
    assert "acmeccl" in said


def test_its_hardware_file_composes(site: Path) -> None:
    said = follow(command("portable pretrain"), site)
    assert "acme (Acme One), backend acme" in said
    assert "acmeccl" in said
    assert re.search(r"usable here +yes", said)


def test_its_kernel_agrees_with_the_reference(site: Path) -> None:
    assert green(follow(command("pytest").replace("tests", "tests/test_norm.py"), site)) >= 7


@pytest.mark.slow  # the fast tier has the same tests of the same chip under tests/contract
def test_the_contract_is_green_on_it(site: Path) -> None:
    assert green(follow(command("pytest"), site)) > 250


def green(said: str) -> int:
    """Return how many tests passed; none of the others failed."""
    passed, *others = re.findall(r"(\d+) (passed|failed|error)", said.splitlines()[-1])
    assert passed[1] == "passed"
    assert others == []
    return int(passed[0])


def test_it_trains(site: Path, tmp_path: Path) -> None:
    """Its own kernel takes part, and the model learns."""
    run = tmp_path / "run"
    said = follow(command("portable run") + f" store={tmp_path}/store hydra.run.dir={run}", site, tmp_path)
    assert "on acme (acme1)" in said
    kernels = json.loads((run / "pretrain" / "runtime.json").read_text())["kernels"]
    assert {"rms_norm": "acme_lean"}.items() <= {row["op"]: row["name"] for row in kernels}.items()
    lines = (run / "pretrain" / "metrics.jsonl").read_text().splitlines()
    scores = [
        row["heldout_bits_per_byte"] for row in map(json.loads, lines) if "heldout_bits_per_byte" in row
    ]
    assert scores[-1] < 3.6 < scores[0]
