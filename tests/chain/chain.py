"""Runs the command line in processes of its own, as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT_S = 600
# Runs are compared, some to the bit: a row that a clock finds slow in only one of them would tell them apart.
UNTIMED = "kernel.self_test=right"


@dataclass(frozen=True)
class Run:
    """A finished recipe run: its folder, and what its manifest says."""

    folder: Path
    store: Path
    output: str

    @property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.folder / "manifest.json").read_text())

    @property
    def digests(self) -> dict[str, str]:
        return {stage["name"]: stage["digest"] for stage in self.manifest["stages"]}

    @property
    def reused(self) -> list[str]:
        return [stage["name"] for stage in self.manifest["stages"] if stage["reused"]]

    def artefact(self, stage: str) -> Path:
        return Path(next(row["artefact"] for row in self.manifest["stages"] if row["name"] == stage))


def curve(artefact: Path, value: str = "loss") -> list[float]:
    """Return ``value`` at every step that was recorded in ``artefact``."""
    rows = map(json.loads, (artefact / "metrics.jsonl").read_text().splitlines())
    return [row[value] for row in rows if value in row]


def kernel_rows(artefact: Path) -> dict[str, str]:
    """Return the names of the kernel rows that ``artefact`` was computed with, by op."""
    record = json.loads((artefact / "runtime.json").read_text())
    return {choice["op"]: choice["name"] for choice in record["kernels"]}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "portable", *words]


def recipe_words(folder: Path, store: Path, *overrides: str) -> list[str]:
    words = ["run", "recipe=quickstart_mini", UNTIMED, f"store={store}", f"hydra.run.dir={folder}"]
    return [*words, *overrides]


def start_recipe(folder: Path, store: Path, *overrides: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*recipe_words(folder, store, *overrides)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=store.parent,
        env=environment(),
        start_new_session=True,
    )


def run_recipe(folder: Path, store: Path, *overrides: str) -> Run:
    process = start_recipe(folder, store, *overrides)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    return Run(folder, store, output)


def run_verb(cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words), capture_output=True, text=True, cwd=cwd, env=environment(), timeout=TIMEOUT_S
    )


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "2", "COLUMNS": "200"}
