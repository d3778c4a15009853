"""One process at a time in a folder; the lock goes when its holder dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Generator
from pathlib import Path

from portable.core.storage import explain_os_errors

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def exclusive(folder: Path) -> Generator[None]:
    """Hold the lock of ``folder``, waiting (and saying so) while another process holds it."""
    path = folder.with_name(folder.name + ".lock")
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process is making %s; waiting for it", folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
