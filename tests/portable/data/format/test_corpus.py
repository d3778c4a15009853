"""A corpus's own files: whole or absent, and the same bytes every time."""

import pytest

from portable.core.errors import ArtefactError
from portable.core.record import Document
from portable.data.format.corpus import LineWriter, read_documents, read_lines

DOCUMENTS = [Document("one\nline é 你", "a", {"z": 1, "a": [None, True]}), Document("", "b")]


def _write(path, documents=DOCUMENTS):
    with LineWriter(path) as writer:
        for document in documents:
            writer.write_document(document)


def test_documents_come_back(tmp_path):
    _write(tmp_path / "new" / "a.jsonl.zst")
    assert list(read_documents(tmp_path / "new" / "a.jsonl.zst")) == DOCUMENTS


def test_any_line_comes_back_with_sorted_keys(tmp_path):
    with LineWriter(tmp_path / "a.zst") as writer:
        writer.write({"b": 1, "a": {"d": 2, "c": 3}})
    (line,) = read_lines(tmp_path / "a.zst")
    assert list(line) == ["a", "b"]
    assert line["a"] == {"c": 3, "d": 2}


def test_no_document_makes_a_readable_file(tmp_path):
    _write(tmp_path / "a.zst", [])
    assert list(read_documents(tmp_path / "a.zst")) == []


def test_the_same_documents_make_the_same_bytes(tmp_path):
    for name in ("a.zst", "b.zst"):
        _write(tmp_path / name, DOCUMENTS * 500)
    assert (tmp_path / "a.zst").read_bytes() == (tmp_path / "b.zst").read_bytes()


def test_an_interrupted_writer_leaves_no_file(tmp_path):
    writer = LineWriter(tmp_path / "a.zst").__enter__()
    writer.write({"a": 1})
    writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert list(tmp_path.iterdir()) == []


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(ArtefactError, match="does not exist"):
        list(read_documents(tmp_path / "a.zst"))
    (tmp_path / "a.zst").write_bytes(b"nonsense")
    with pytest.raises(ArtefactError, match="is damaged"):
        list(read_documents(tmp_path / "a.zst"))
