"""JSON Lines: a line is a document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from portable.core.errors import DataError, did_you_mean
from portable.core.record import Document
from portable.data.config import DataConfig
from portable.data.format.reader import Quarantine, SourceFile
from portable.data.format.stream import decode, iter_lines, open_bytes


def read_jsonl(file: SourceFile, config: DataConfig, quarantine: Quarantine) -> Iterator[Document]:
    """Yield a document for each line; blank lines are nothing, broken ones go to quarantine with their
    number.

    All fields but the text and the id become metadata. Without ``data.id_field`` the id is file and line.

    Raises: DataError if the first readable line lacks the text or id field: then the setting is wrong, not
    the line.
    """
    checked = False
    with open_bytes(file.path) as stream:
        for number, raw in enumerate(iter_lines(stream), start=1):
            if not raw.strip():
                continue
            row = _parse(raw, file.path, number, quarantine)
            if row is None:
                continue
            if not checked:
                check_columns(list(row), file.path, config)
                checked = True
            document = document_of(row, file, number, config, quarantine)
            if document is not None:
                yield document


def check_columns(columns: list[str], file: str, config: DataConfig) -> None:
    """Raise a DataError listing ``columns`` if the text or id field is not among them."""
    for setting, name in (("text_field", config.text_field), ("id_field", config.id_field)):
        if name is not None and name not in columns:
            raise DataError(
                f"data.{setting}={name} is no column of {file}.{did_you_mean(name, columns)} "
                f"The columns found are {', '.join(columns) or 'none'}; set data.{setting} to one of them"
            )


def document_of(
    row: dict[str, Any], file: SourceFile, number: int, config: DataConfig, quarantine: Quarantine
) -> Document | None:  # Any: one row holds any JSON
    """Return a row as a document, or None if it went to quarantine. ``number`` counts from 1."""
    text = row.get(config.text_field)
    if not isinstance(text, str):
        found = "is missing" if config.text_field not in row else f"is {type(text).__name__}, not text"
        quarantine(
            file.path, number, f"field '{config.text_field}' {found}", json.dumps(row, default=str)[:200]
        )
        return None
    name = f"{file.name}:{number}"
    if config.id_field is not None:
        if row.get(config.id_field) is None:
            quarantine(file.path, number, f"field '{config.id_field}' is missing", text[:200])
            return None
        name = str(row[config.id_field])
    rest = {key: value for key, value in row.items() if key not in (config.text_field, config.id_field)}
    return Document(text, name, {"source": "files", "path": file.name, **rest})


def _parse(raw: bytes, file: str, number: int, quarantine: Quarantine) -> dict[str, Any] | None:  # Any: JSON
    text = decode(raw, file, number, quarantine)
    if text is None:
        return None
    try:
        row = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        quarantine(file, number, f"broken JSON: {error}", text[:200])
        return None
    if "\\u" in text and not _is_unicode(row):
        quarantine(file, number, "half a surrogate pair: a text that no encoding can hold", text[:200])
        return None
    if not isinstance(row, dict):
        quarantine(file, number, f"the line is a JSON {type(row).__name__}, not an object", text[:200])
        return None
    return row


def _is_unicode(row: object) -> bool:
    r"""Return whether all strings can be written as UTF-8; JSON may smuggle in "\ud83d" alone."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
