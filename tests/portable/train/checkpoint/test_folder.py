"""Whole or absent: what counts as a checkpoint, and what is passed over."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from portable.core.errors import StorageError
from portable.train.checkpoint import folder
from portable.train.checkpoint.folder import (
    begin,
    candidates,
    commit,
    fingerprints,
    inspect,
    partial_path,
    sweep,
)
from portable.train.checkpoint.manifest import Made, read_manifest


def made(step: int) -> Made:
    return Made(step=step, strategy="ddp", world_size=2, layout={"dp": 2}, data={"next_sample": 8 * step})


def write(root: Path, step: int, keep: int = 9, content: bytes = b"weights") -> Path:
    partial = begin(root, step)
    for rank in range(2):
        (partial / f"__{rank}_0.distcp").write_bytes(content * 100)
        (partial / f"host-{rank}.pt").write_bytes(b"state")
    (partial / ".metadata").write_bytes(b"contents")
    files = fingerprints(partial, 0) | fingerprints(partial, 1)
    return commit(root, made(step), files, keep)


def whole(root: Path) -> list[str]:
    return [path.name for path in candidates(root) if not inspect(path)]


def test_a_committed_checkpoint_is_found_with_its_facts(tmp_path: Path):
    path = write(tmp_path, 12)
    assert candidates(tmp_path) == [path]
    assert inspect(path) == ""
    assert read_manifest(path)[0] == made(12)
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["step"] == 12
    assert manifest["data"] == {"next_sample": 96}
    assert manifest["torch"].startswith("2.")
    assert manifest["files"].keys() == {
        ".metadata",
        "__0_0.distcp",
        "__1_0.distcp",
        "host-0.pt",
        "host-1.pt",
    }


def test_each_rank_hashes_its_own_finished_files(tmp_path: Path):
    partial = begin(tmp_path, 1)
    unfinished = ".host-0.pt.x1.tmp"
    for name in ("__0_0.distcp", "__1_0.distcp", "__11_0.distcp", "host-1.pt", ".metadata", unfinished):
        (partial / name).write_bytes(b"x")
    assert fingerprints(partial, 0).keys() == {"__0_0.distcp", ".metadata"}
    assert fingerprints(partial, 1).keys() == {"__1_0.distcp", "host-1.pt"}
    assert fingerprints(partial, 11).keys() == {"__11_0.distcp"}


def test_ranks_share_the_inspection_and_miss_nothing_together(tmp_path: Path):
    path = write(tmp_path, 3)
    (path / "__1_0.distcp").write_bytes(b"torn")
    found = [inspect(path, rank, 3) for rank in range(3)]
    assert [flaw for flaw in found if flaw] == ["__1_0.distcp differs from what was written"]


def test_without_a_folder_there_is_none(tmp_path: Path):
    assert candidates(tmp_path / "nothing") == []


def test_the_newest_stay(tmp_path: Path):
    for step in (3, 6, 9, 100_000_000):
        write(tmp_path, step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000009", "step-100000000"]
    assert whole(tmp_path) == ["step-100000000", "step-00000009"]  # by number, not by letter


def test_a_folder_that_was_never_committed_does_not_count(tmp_path: Path):
    write(tmp_path, 3)
    (begin(tmp_path, 6) / "__0_0.distcp").write_bytes(b"half")
    assert whole(tmp_path) == ["step-00000003"]


def test_beginning_again_starts_from_nothing(tmp_path: Path):
    (begin(tmp_path, 6) / "stale.distcp").write_bytes(b"half")
    assert list(begin(tmp_path, 6).iterdir()) == []


def test_committing_a_step_again_replaces_it(tmp_path: Path):
    write(tmp_path, 3, content=b"old")
    path = write(tmp_path, 3, content=b"new")
    assert (path / "__0_0.distcp").read_bytes().startswith(b"newnew")
    assert whole(tmp_path) == ["step-00000003"]


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
            lambda path: (path / "manifest.json").write_text('{"format": 2, "fi'),
            "manifest.json cannot be read",
        ),
        (lambda path: (path / "manifest.json").write_text('{"format": 2}'), "manifest.json cannot be read"),
        (lambda path: (path / "manifest.json").write_text("[]"), "manifest.json cannot be read"),
        (
            lambda path: (path / "manifest.json").write_text('{"format": 7, "files": {}}'),
            "its format is 7, not 2",
        ),
    ],
)
def test_a_damaged_one_is_found_out(tmp_path: Path, damage, reason: str):
    write(tmp_path, 3)
    path = write(tmp_path, 6)
    damage(path)
    assert reason in inspect(path)
    assert whole(tmp_path) == ["step-00000003"]


def test_sweeping_removes_what_was_left_half_written(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write(tmp_path, 3)
    begin(tmp_path, 6)
    with caplog.at_level("WARNING", logger="portable.train.checkpoint.folder"):
        sweep(tmp_path)
    assert not partial_path(tmp_path, 6).exists()
    assert whole(tmp_path) == ["step-00000003"]
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
        commit(tmp_path, made(3), {}, keep=1)
    monkeypatch.setattr(folder.Path, "mkdir", refuse)
    with pytest.raises(StorageError, match=told):
        begin(tmp_path / "new", 3)
