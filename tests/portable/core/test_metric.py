"""Metrics on disk, and how they are read after a crash."""

import errno
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from portable.core.errors import StorageError
from portable.core.metric import Fanout, JsonlSink, NullSink, read_metrics


class ListSink:
    """Keeps what it is given."""

    def __init__(self):
        self.rows: list[tuple[int, dict[str, float | None]]] = []
        self.is_closed = False

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        self.rows.append((step, dict(values)))

    def close(self) -> None:
        self.is_closed = True


def test_lines_are_on_disk_at_once(tmp_path: Path):
    sink = JsonlSink(tmp_path / "run" / "metrics.jsonl")
    sink.write(1, {"loss": 2.5, "mfu": None})
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert row.pop("time") > 0
    assert row == {"step": 1, "loss": 2.5, "mfu": None}
    sink.close()


def test_reopened_file_is_continued_and_the_last_line_of_a_step_wins(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    for offset in (0.0, 10.0):
        sink = JsonlSink(path)
        for step in (1, 2):
            sink.write(step, {"loss": offset + step})
        sink.close()
    assert [(row["step"], row["loss"]) for row in read_metrics(path)] == [(1, 11.0), (2, 12.0)]


def test_values_of_one_step_written_apart_are_joined(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "loss": 3}\n{"step": 1, "loss": 4}\n{"step": 2, "bits_per_byte": 1.5}\n')
    assert read_metrics(path) == [{"step": 1, "loss": 4}, {"step": 2, "loss": 3, "bits_per_byte": 1.5}]


def test_torn_last_line_is_left_out(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 4}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 4}]


def test_absent_file_has_no_rows(tmp_path: Path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_full_disk_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sink = JsonlSink(tmp_path / "metrics.jsonl")

    class FullFile:
        def write(self, _: str) -> None:
            raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(sink, "_file", FullFile())
    with pytest.raises(StorageError, match="disk is full"):
        sink.write(1, {"loss": 1.0})


def test_fanout_reaches_every_sink():
    sinks = [ListSink(), ListSink()]
    fanout = Fanout([*sinks, NullSink()])
    fanout.write(3, {"loss": 1.0})
    fanout.close()
    assert all(sink.rows == [(3, {"loss": 1.0})] and sink.is_closed for sink in sinks)
