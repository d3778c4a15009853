"""The table for the benchmarks page."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "ci" / "stage_table.py"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script as ``make bench`` does."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def write_run(folder: Path, minutes: float, age_s: int = 0) -> None:
    """Write a run of one stage."""
    folder.mkdir(parents=True)
    stage = {"name": "data", "time_s": 60 * minutes, "peak_memory_bytes": 2**30, "reused": minutes > 5}
    manifest = {
        "command": "/x/.venv/bin/portable run recipe=quickstart data.source=a/b",
        "device": {"arch": "avx2", "num_cores": 2},
        "finished": "2026-11-24T14:06:54+00:00",
        "git_revision": "391cf13a9be1",
        "stages": [stage, {**stage, "name": "pretrain"}],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    os.utime(folder / "manifest.json", (1e9 - age_s, 1e9 - age_s))


def test_table_names_command_date_machine_and_revision(tmp_path: Path):
    write_run(tmp_path / "run", 2)
    done = run(tmp_path, str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    head = " ".join(done.stdout.splitlines()[:2])
    assert head.startswith("`portable run recipe=quickstart data.source=a/b` on avx2, 2 cores")
    assert "2026-11-24, revision 391cf13a9be1" in head
    assert "| data | 2 min 00 s | 1.0 GiB |  |" in done.stdout
    assert "| all | 4 min 00 s | 1.0 GiB | |" in done.stdout


def test_newest_run_is_taken_and_reuse_is_marked(tmp_path: Path):
    write_run(tmp_path / "runs" / "old" / "latest", 2, age_s=100)
    write_run(tmp_path / "runs" / "new" / "latest", 6)
    assert "| data | 6 min 00 s | 1.0 GiB | yes |" in run(tmp_path).stdout


def test_no_run_is_an_error_that_says_what_to_do(tmp_path: Path):
    done = run(tmp_path)
    assert done.returncode == 2
    assert "run the quickstart first" in done.stderr
