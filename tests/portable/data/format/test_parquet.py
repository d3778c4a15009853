"""Parquet rows are documents."""

import datetime

import pyarrow as pa
import pytest
from pyarrow import parquet

from portable.core.errors import DataError
from portable.data.config import DataConfig
from portable.data.format.parquet import read_parquet
from portable.data.format.reader import SourceFile


def _read(tmp_path, recorder, columns, **settings):
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=2)
    file = SourceFile(str(tmp_path / "a.parquet"), "in/a")
    return list(read_parquet(file, DataConfig(source="a", **settings), recorder))


def test_rows_are_documents_and_columns_metadata(tmp_path, recorder):
    columns = {"text": ["one", "two", "three"], "day": [datetime.date(2026, 1, n) for n in (1, 2, 3)]}
    documents = _read(tmp_path, recorder, columns)
    assert [document.text for document in documents] == ["one", "two", "three"]
    assert documents[2].id == "in/a:3"
    assert documents[0].metadata["day"] == "2026-01-01"


def test_a_null_text_is_listed_with_its_row(tmp_path, recorder):
    documents = _read(
        tmp_path, recorder, {"body": ["one", None], "key": ["a", "b"]}, text_field="body", id_field="key"
    )
    assert [document.id for document in documents] == ["a"]
    assert recorder.rows[0][1:3] == (2, "field 'body' is NoneType, not text")


def test_a_wrong_column_lists_those_found(tmp_path, recorder):
    with pytest.raises(DataError, match=r"data.text_field=text is no column of .*found are body, key"):
        _read(tmp_path, recorder, {"body": ["one"], "key": ["a"]})


def test_another_file_is_named(tmp_path, recorder):
    (tmp_path / "b.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"b\.parquet is no readable Parquet"):
        list(read_parquet(SourceFile(str(tmp_path / "b.parquet"), "in/a"), DataConfig(source="b"), recorder))
