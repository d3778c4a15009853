"""JSON Lines: good lines are documents, broken ones are listed."""

import json

import pytest

from portable.core.errors import DataError
from portable.data.config import DataConfig
from portable.data.format.jsonl import read_jsonl
from portable.data.format.reader import SourceFile


def _read(tmp_path, recorder, raw, **settings):
    (tmp_path / "a.jsonl").write_bytes(raw)
    file = SourceFile(str(tmp_path / "a.jsonl"), "in/a")
    return list(read_jsonl(file, DataConfig(source="a.jsonl", **settings), recorder))


def _lines(*rows):
    return "\n".join(json.dumps(row) for row in rows).encode()


def test_lines_are_documents_with_the_rest_as_metadata(tmp_path, recorder):
    raw = _lines({"text": "one", "url": "u", "n": [1, {"a": None}]}, {"text": "two"})
    one, two = _read(tmp_path, recorder, raw)
    assert (one.text, one.id) == ("one", "in/a:1")
    assert one.metadata == {"source": "files", "path": "in/a", "url": "u", "n": [1, {"a": None}]}
    assert two.id == "in/a:2"


def test_fields_can_be_named(tmp_path, recorder):
    raw = _lines({"body": "one", "key": 7}, {"body": "two", "key": "x"})
    documents = _read(tmp_path, recorder, raw, text_field="body", id_field="key")
    assert [(document.id, document.text) for document in documents] == [("7", "one"), ("x", "two")]
    assert "key" not in documents[0].metadata


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "cut', "broken JSON"),
        (b"[1, 2]", "JSON list, not an object"),
        (b'"text"', "JSON str, not an object"),
        (b'{"text": 5}', "field 'text' is int, not text"),
        (b'{"text": null}', "field 'text' is NoneType, not text"),
        (b'{"other": "x"}', "field 'text' is missing"),
        (b'{"text": "\xff"}', "not UTF-8: byte 0xff"),
        (b'{"text": "half \\ud83d"}', "half a surrogate pair"),
        (b"[" * 100_000, "broken JSON"),
    ],
)
def test_a_broken_line_is_listed_and_the_rest_is_read(tmp_path, recorder, line, reason):
    raw = b'{"text": "before"}\n\n' + line + b'\n{"text": "after"}\n'
    assert [document.text for document in _read(tmp_path, recorder, raw)] == ["before", "after"]
    ((file, number, found, _),) = recorder.rows
    assert (file, number) == (str(tmp_path / "a.jsonl"), 3)
    assert reason in found


def test_a_whole_emoji_written_as_a_pair_is_fine(tmp_path, recorder):
    (document,) = _read(tmp_path, recorder, b'{"text": "\\ud83d\\ude00"}')
    assert document.text == "😀"


def test_a_missing_id_is_listed(tmp_path, recorder):
    raw = _lines({"text": "a", "key": "1"}, {"text": "b", "key": None}, {"text": "c"})
    assert [document.id for document in _read(tmp_path, recorder, raw, id_field="key")] == ["1"]
    assert [(row[1], row[2]) for row in recorder.rows] == [
        (2, "field 'key' is missing"),
        (3, "field 'key' is missing"),
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_field": "contents"}, r"data.text_field=contents is no column.*Did you mean 'content'"),
        (
            {"text_field": "content", "id_field": "key"},
            r"data.id_field=key is no column.*found are content, url",
        ),
    ],
)
def test_a_wrong_column_lists_those_found(tmp_path, recorder, settings, message):
    with pytest.raises(DataError, match=message):
        _read(tmp_path, recorder, _lines({"content": "one", "url": "u"}), **settings)


def test_an_empty_file_is_no_document(tmp_path, recorder):
    assert _read(tmp_path, recorder, b"\n\n") == []
    assert recorder.rows == []
