from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from portable.core.errors import CollectiveError, DataError
from portable.launcher.failure import (
    ERROR_FILE,
    Failure,
    FailureRecord,
    cause_of,
    complete,
    describe,
    failure_path,
    read_failures,
)


def fail(monkeypatch: pytest.MonkeyPatch, path: Path, error: BaseException) -> None:
    monkeypatch.setenv(ERROR_FILE, str(path))
    with pytest.raises(type(error)), FailureRecord():
        raise error


def test_the_rank_that_failed_by_itself_is_told_and_not_the_one_that_missed_it(tmp_path, monkeypatch):
    fail(monkeypatch, failure_path(tmp_path, 0), CollectiveError("rank 1 does not answer"))
    complete(tmp_path / "failures/rank-0.json", 1)
    fail(monkeypatch, failure_path(tmp_path, 1), DataError("the disk is empty"))
    complete(tmp_path / "failures/rank-1.json", 2)
    error = cause_of(read_failures(tmp_path), Path("logs"))
    assert str(error) == "rank 1: the disk is empty (logs of all ranks: logs)"
    assert error.exit_code == 2


def test_where_all_miss_another_the_first_is_told():
    failures = [Failure(rank, f"rank 2 is gone, says {rank}", 1, is_echo=True) for rank in (1, 0)]
    assert str(cause_of(failures, Path("logs"))).startswith("rank 1: rank 2 is gone, says 1")


def test_an_error_that_is_not_ours_keeps_its_kind_and_its_trace(tmp_path, monkeypatch):
    fail(monkeypatch, failure_path(tmp_path, 0), KeyError("x"))
    (failure,) = read_failures(tmp_path)
    assert failure == Failure(0, "KeyError: 'x'", 1, is_echo=False)
    trace = json.loads((tmp_path / "failures/rank-0.json").read_text())["message"]["extraInfo"][
        "py_callstack"
    ]
    assert "Traceback" in trace


def test_torchs_launcher_can_read_the_file(tmp_path, monkeypatch):
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    fail(monkeypatch, tmp_path / "error.json", DataError("the disk is empty"))
    failure = ProcessFailure(
        local_rank=0, pid=os.getpid(), exitcode=2, error_file=str(tmp_path / "error.json")
    )
    assert failure.message["message"] == "the disk is empty"
    assert failure.timestamp > 0


def test_a_process_that_died_without_a_word_is_told_by_its_signal(tmp_path):
    complete(failure_path(tmp_path, 3), -9)
    assert read_failures(tmp_path) == [Failure(3, "ended by SIGKILL", 137, is_echo=True)]


def test_a_process_that_only_left_a_code_is_told_by_it():
    assert describe(0, {}, 7) == Failure(0, "ended with exit code 7", 7, is_echo=False)


def test_nothing_is_written_where_no_launcher_asked_for_it(tmp_path, monkeypatch):
    monkeypatch.delenv(ERROR_FILE, raising=False)
    with pytest.raises(DataError), FailureRecord():
        raise DataError("x")
    assert list(tmp_path.iterdir()) == []
