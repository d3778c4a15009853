"""Where log records go."""

import errno
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from portable.core import log
from portable.core.errors import StorageError


@pytest.fixture(autouse=True)
def own_logger() -> Iterator[None]:
    """Give the other tests their logger back."""
    root = logging.getLogger("portable")
    kept = (list(root.handlers), root.level, root.propagate)
    backends = logging.getLogger("backends")
    parent = backends.parent
    yield
    root.handlers[:], root.propagate = kept[0], kept[2]
    root.setLevel(kept[1])
    backends.parent = parent


def test_file_gets_our_records_until_it_is_closed(tmp_path: Path):
    log.setup_logging("INFO")
    path = tmp_path / "run" / "log.txt"
    handler = log.log_to_file(path)
    logging.getLogger("portable.train").info("step %d", 3)
    logging.getLogger("portable.train").debug("too fine")
    log.stop_logging_to(handler)
    logging.getLogger("portable.train").info("afterwards")
    lines = path.read_text().splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("INFO    portable.train: step 3")


def test_backends_speak_through_the_same_handlers(tmp_path: Path):
    log.setup_logging("INFO")
    handler = log.log_to_file(tmp_path / "log.txt")
    logging.getLogger("backends").warning("slower path: no tensor cores")
    log.stop_logging_to(handler)
    assert "slower path" in (tmp_path / "log.txt").read_text()


def test_setting_up_twice_does_not_double_the_lines():
    log.setup_logging()
    log.setup_logging()
    assert len(logging.getLogger("portable").handlers) == 1


def test_other_ranks_only_report_warnings():
    log.setup_logging("DEBUG", rank=1)
    assert logging.getLogger("portable").level == logging.WARNING


def test_log_on_a_read_only_disk_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(StorageError, match="read-only"):
        log.log_to_file(tmp_path / "sub" / "log.txt")
