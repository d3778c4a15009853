"""Seals: what they cover, what they do not, and what damage they notice."""

import json
from pathlib import Path

import pytest

from portable.core.artefact import SEAL, open_artefact, seal
from portable.core.errors import ArtefactError


def make(path: Path, text: str = "weights") -> Path:
    """Write a folder with a payload and a log beside it."""
    (path / "tokens").mkdir(parents=True)
    (path / "tokens" / "0.bin").write_text("tokens")
    (path / "model.bin").write_text(text)
    (path / "log.txt").write_text("12:01 started")
    return path


def test_sealed_folder_opens_with_what_was_said(tmp_path: Path):
    sealed = seal(make(tmp_path / "a"), "model", ["model.bin", "tokens"], {"parameters": 3})
    opened = open_artefact(tmp_path / "a", "model", verify=True)
    assert opened == sealed
    assert opened.summary == {"parameters": 3}
    assert opened.path == tmp_path / "a"


def test_digest_covers_payload_bytes_and_names_only(tmp_path: Path):
    first = seal(make(tmp_path / "a"), "model", ["model.bin", "tokens"])
    (tmp_path / "a" / "log.txt").write_text("13:30 started")
    again = seal(tmp_path / "a", "model", ["tokens", "model.bin"], {"note": 1})
    elsewhere = seal(make(tmp_path / "b"), "model", ["model.bin", "tokens"])
    assert first.digest == again.digest == elsewhere.digest

    changed = seal(make(tmp_path / "c", "other"), "model", ["model.bin", "tokens"])
    renamed = make(tmp_path / "d")
    (renamed / "model.bin").rename(renamed / "model2.bin")
    assert len({first.digest, changed.digest, seal(renamed, "model", ["model2.bin", "tokens"]).digest}) == 3


def test_payload_that_is_absent_cannot_be_sealed(tmp_path: Path):
    with pytest.raises(ArtefactError, match=r"'weights\.bin' does not exist"):
        seal(make(tmp_path / "a"), "model", ["model.bin", "weights.bin"])
    assert not (tmp_path / "a" / SEAL).exists()


def test_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(ArtefactError, match="does not exist; run the stage that makes it"):
        open_artefact(tmp_path / "nowhere")


def test_unfinished_folder_is_recognised(tmp_path: Path):
    with pytest.raises(ArtefactError, match="is an unfinished folder"):
        open_artefact(make(tmp_path / "a"))


def test_wrong_kind_is_refused(tmp_path: Path):
    seal(make(tmp_path / "a"), "model", ["model.bin"])
    with pytest.raises(ArtefactError, match="of kind 'model', but 'corpus' is needed"):
        open_artefact(tmp_path / "a", "corpus")


@pytest.mark.parametrize("verify", [False, True])
def test_lost_file_is_noticed(verify: bool, tmp_path: Path):
    seal(make(tmp_path / "a"), "model", ["model.bin", "tokens"])
    (tmp_path / "a" / "tokens" / "0.bin").unlink()
    with pytest.raises(ArtefactError, match=r"has lost its file 'tokens/0\.bin'"):
        open_artefact(tmp_path / "a", verify=verify)


def test_changed_byte_is_noticed_when_verifying(tmp_path: Path):
    seal(make(tmp_path / "a"), "model", ["model.bin", "tokens"])
    (tmp_path / "a" / "model.bin").write_text("weighty")
    assert open_artefact(tmp_path / "a").kind == "model"
    with pytest.raises(ArtefactError, match=r"damaged: the hash of 'model\.bin' differs"):
        open_artefact(tmp_path / "a", verify=True)


def test_seal_file_lists_each_file_once(tmp_path: Path):
    seal(make(tmp_path / "a"), "model", ["model.bin", "tokens"])
    assert sorted(json.loads((tmp_path / "a" / SEAL).read_text())["files"]) == ["model.bin", "tokens/0.bin"]
