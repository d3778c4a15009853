"""Broken pieces are listed with their place, or end a strict run."""

import json

import pytest

from portable.core.errors import DataError
from portable.data.clean.quarantine import QuarantineFile


def test_pieces_are_counted_and_written_down(tmp_path):
    quarantine = QuarantineFile(tmp_path / "q.jsonl", strict=False)
    quarantine("a.jsonl", 3, "broken JSON", '{"te\ud83d')
    quarantine("b.txt", None, "not UTF-8", "x")
    rows = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    assert quarantine.count == 2
    assert rows[0] == {"file": "a.jsonl", "line": 3, "reason": "broken JSON", "text": '{"te\ud83d'}
    assert rows[1]["line"] is None


def test_without_a_broken_piece_there_is_no_file(tmp_path):
    assert QuarantineFile(tmp_path / "q.jsonl", strict=False).count == 0
    assert not (tmp_path / "q.jsonl").exists()


@pytest.mark.parametrize(("line", "place"), [(3, r"a\.jsonl, line 3 cannot"), (None, r"a\.jsonl cannot")])
def test_strict_runs_end_at_the_first(tmp_path, line, place):
    quarantine = QuarantineFile(tmp_path / "q.jsonl", strict=True)
    with pytest.raises(DataError, match=f"{place} be read: broken JSON; mend it, or set data.strict=false"):
        quarantine("a.jsonl", line, "broken JSON", "x")
    assert not (tmp_path / "q.jsonl").exists()
