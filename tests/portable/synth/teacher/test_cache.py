import threading
from pathlib import Path

import pytest

from portable.core.errors import StorageError
from portable.synth.teacher.cache import ReplyCache, request_key


def test_a_reply_outlives_the_process(tmp_path: Path):
    first = ReplyCache(tmp_path / "c" / "teacher.sqlite")
    first.put("key", {"text": "Grüße", "rejection": ""})
    # Not closed: as after a kill.
    assert ReplyCache(tmp_path / "c" / "teacher.sqlite").get("key") == {"text": "Grüße", "rejection": ""}
    assert first.get("other") is None


def test_the_key_is_the_content():
    assert request_key({"a": 1, "b": [2]}) == request_key({"b": [2], "a": 1})
    assert request_key({"a": 1}) != request_key({"a": 2})


def test_many_threads_write_at_once(tmp_path: Path):
    cache = ReplyCache(tmp_path / "teacher.sqlite")

    def write(start: int) -> None:
        for number in range(start, start + 10):
            cache.put(str(number), {"n": number})

    threads = [threading.Thread(target=write, args=(start,)) for start in range(0, 80, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [cache.get(str(number)) for number in range(80)] == [{"n": number} for number in range(80)]


def test_a_file_that_is_no_cache_is_explained(tmp_path: Path):
    (tmp_path / "teacher.sqlite").write_text("not a database, but long enough to be one" * 50)
    with pytest.raises(StorageError, match="delete the file"):
        ReplyCache(tmp_path / "teacher.sqlite")
