"""Parquet: a row is a document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow as pa
from pyarrow import parquet

from portable.core.errors import DataError
from portable.core.record import Document
from portable.core.storage import explain_os_errors
from portable.data.config import DataConfig
from portable.data.format.jsonl import check_columns, document_of
from portable.data.format.reader import Quarantine, SourceFile


def read_parquet(file: SourceFile, config: DataConfig, quarantine: Quarantine) -> Iterator[Document]:
    """Yield a document for each row, a few row groups' worth of memory at a time; other columns become
    metadata.

    Raises: DataError if the file is no Parquet, or lacks the text or id column.
    """
    try:
        with explain_os_errors(file.path, "read"), fsspec.open(file.path, "rb") as stream:
            table = parquet.ParquetFile(stream)
            check_columns(table.schema_arrow.names, file.path, config)
            number = 0
            for batch in table.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    document = document_of(_plain(row), file, number, config, quarantine)
                    if document is not None:
                        yield document
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"data.source: {file.path} is no readable Parquet ({error}); fetch or convert it again"
        ) from error


def _plain(row: dict[str, Any]) -> dict[str, Any]:  # Any: Arrow values on one side, JSON values on the other
    """Return a row of JSON values: dates, decimals and bytes become text."""
    return json.loads(json.dumps(row, default=str))
