"""Whole or absent: what counts as a checkpoint, and what is passed over."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from portable.core.errors import StorageError
from portable.train.checkpoint import folder
from portable.train.checkpoint.folder import begin, commit, newest, partial_path, sweep


def write(root: Path, step: int, keep: int = 9, content: bytes = b"weights") -> Path:
    partial = begin(root, step)
    (partial / "__0_0.distcp").write_bytes(content * 100)
    (partial / "host-0.pt").write_bytes(b"state")
    return commit(root, step, "digest", 1, keep).path


def test_a_committed_checkpoint_is_found_with_its_facts(tmp_path: Path):
    path = write(tmp_path, 12)
    found = newest(tmp_path)
    assert (found.path, found.step, found.shape_digest, found.world_size) == (path, 12, "digest", 1)
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["step"] == 12
    assert manifest["torch"].startswith("2.")
    assert manifest["files"].keys() == {"__0_0.distcp", "host-0.pt"}


def test_without_a_folder_there_is_none(tmp_path: Path):
    assert newest(tmp_path / "nothing") is None


def test_the_newest_stay(tmp_path: Path):
    for step in (3, 6, 9, 100_000_000):
        write(tmp_path, step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000009", "step-100000000"]
    assert newest(tmp_path).step == 100_000_000


def test_a_folder_that_was_never_committed_does_not_count(tmp_path: Path):
    write(tmp_path, 3)
    (begin(tmp_path, 6) / "__0_0.distcp").write_bytes(b"half")
    assert newest(tmp_path).step == 3


def test_beginning_again_starts_from_nothing(tmp_path: Path):
    (begin(tmp_path, 6) / "stale.distcp").write_bytes(b"half")
    assert list(begin(tmp_path, 6).iterdir()) == []


def test_committing_a_step_again_replaces_it(tmp_path: Path):
    write(tmp_path, 3, content=b"old")
    path = write(tmp_path, 3, content=b"new")
    assert (path / "__0_0.distcp").read_bytes().startswith(b"newnew")
    assert newest(tmp_path).step == 3


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            lambda path: (path / "__0_0.distcp").write_bytes(b"weights" * 99 + b"wrights"),
            "__0_0.distcp differs",
        ),
        (lambda path: (path / "__0_0.distcp").write_bytes(b"weights"), "__0_0.distcp differs"),
        (lambda path: (path / "host-0.pt").unlink(), "host-0.pt is missing"),
        (lambda path: (path / "manifest.json").unlink(), "manifest.json is missing"),
        (
            lambda path: (path / "manifest.json").write_text('{"format": 1, "fi'),
            "manifest.json cannot be read",
        ),
        (lambda path: (path / "manifest.json").write_text('{"format": 1}'), "manifest.json cannot be read"),
        (
            lambda path: (path / "manifest.json").write_text('{"format": 7, "files": {}}'),
            "its format is 7, not 1",
        ),
    ],
)
def test_a_damaged_one_is_reported_and_the_one_before_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage, reason: str
):
    write(tmp_path, 3)
    damage(write(tmp_path, 6))
    with caplog.at_level("WARNING", logger="portable.train.checkpoint.folder"):
        assert newest(tmp_path).step == 3
    assert "step-00000006 is not whole" in caplog.text
    assert reason in caplog.text


def test_sweeping_removes_what_was_left_half_written(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write(tmp_path, 3)
    begin(tmp_path, 6)
    with caplog.at_level("WARNING", logger="portable.train.checkpoint.folder"):
        sweep(tmp_path)
    assert not partial_path(tmp_path, 6).exists()
    assert newest(tmp_path).step == 3
    assert "still being written" in caplog.text


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "permission denied"),
    ],
)
def test_a_disk_that_refuses_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, told: str
):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "no")

    begin(tmp_path, 3)
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(StorageError, match=told):
        commit(tmp_path, 3, "digest", 1, keep=1)
    monkeypatch.setattr(folder.Path, "mkdir", refuse)
    with pytest.raises(StorageError, match=told):
        begin(tmp_path / "new", 3)
