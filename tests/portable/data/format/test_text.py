"""A text file is a document."""

import gzip

from portable.data.config import DataConfig
from portable.data.format.reader import SourceFile
from portable.data.format.text import read_text


def test_a_file_is_a_document(tmp_path, recorder):
    file = tmp_path / "a.txt.gz"
    file.write_bytes(gzip.compress("One.\n\nTwo: é.\n".encode()))
    (document,) = read_text(SourceFile(str(file), "in/a"), DataConfig(source="*.txt.gz"), recorder)
    assert document.text == "One.\n\nTwo: é.\n"
    assert document.id == "in/a"
    assert document.metadata == {"source": "files", "path": "in/a", "format": "text"}


def test_a_file_of_other_bytes_is_set_aside(tmp_path, recorder):
    (tmp_path / "a.txt").write_bytes(b"\xff")
    assert (
        list(read_text(SourceFile(str(tmp_path / "a.txt"), "in/a"), DataConfig(source="a"), recorder)) == []
    )
    assert len(recorder.rows) == 1
