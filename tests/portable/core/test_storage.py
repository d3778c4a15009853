"""Whole files or none, and disks that fail."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from portable.core import storage
from portable.core.errors import StorageError


def failing(number: int) -> Callable[..., NoReturn]:
    """Return a function that fails as a disk does."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


def test_write_text_keeps_every_character(tmp_path: Path):
    path = tmp_path / "deep" / "er" / "a.txt"
    storage.write_text(path, "grün\n漢字\n")
    assert path.read_bytes() == "grün\n漢字\n".encode()


def test_json_round_trip_is_sorted_and_readable(tmp_path: Path):
    storage.write_json(tmp_path / "a.json", {"b": [1, None], "a": "é"})
    assert (tmp_path / "a.json").read_text() == '{\n "a": "é",\n "b": [\n  1,\n  null\n ]\n}\n'
    assert storage.read_json(tmp_path / "a.json") == {"a": "é", "b": [1, None]}


def test_written_file_can_be_read_by_others(tmp_path: Path):
    storage.write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


def test_atomic_path_keeps_the_old_file_when_the_block_fails(tmp_path: Path):
    path = tmp_path / "a.txt"
    storage.write_text(path, "old")
    with pytest.raises(ZeroDivisionError), storage.atomic_path(path) as temporary:
        temporary.write_text(f"half of the new, {1 // 0}")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_path_is_not_visible_before_the_end(tmp_path: Path):
    path = tmp_path / "a.txt"
    with storage.atomic_path(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent  # a rename is atomic only within one file system
    assert path.read_text() == "new"


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the quota is used up"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EPERM, "permission denied"),
    ],
)
def test_disk_trouble_names_the_file_and_the_remedy(
    number: int, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Path, "write_text", failing(number))
    with pytest.raises(StorageError, match=remedy) as caught:
        storage.write_json(tmp_path / "a.json", {})
    assert str(tmp_path / "a.json") in str(caught.value)
    assert "output_dir=PATH" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_disk_that_fills_while_flushing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    storage.write_text(tmp_path / "a.txt", "old")
    monkeypatch.setattr(storage.os, "fsync", failing(errno.ENOSPC))
    with pytest.raises(StorageError, match="cannot write"):
        storage.write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Path, "mkdir", failing(errno.EROFS))
    with pytest.raises(StorageError, match="read-only"):
        storage.write_text(tmp_path / "sub" / "a.txt", "x")


def test_other_os_errors_pass_unchanged(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        storage.read_json(tmp_path / "absent.json")
    with pytest.raises(FileNotFoundError), storage.explain_os_errors(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "x")


def test_reading_says_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.json").write_text("{}")
    monkeypatch.setattr(Path, "read_text", failing(errno.EACCES))
    with pytest.raises(StorageError, match="cannot read"):
        storage.read_json(tmp_path / "a.json")


def test_file_digest_is_sha256(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"abc")
    assert (
        storage.file_digest(tmp_path / "a")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
