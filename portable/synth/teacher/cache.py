"""Replies by the content of their request, kept in one SQLite file: a question is paid for once."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from portable.core.errors import StorageError
from portable.core.storage import explain_os_errors


class ReplyCache:
    """Maps the SHA-256 of a request's JSON to the reply. Safe to use from many threads, and after a kill."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        with explain_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = sqlite3.connect(path, check_same_thread=False)
            # A write-ahead log and full syncing: a reply that was stored survives a crash of the machine.
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS reply (key TEXT PRIMARY KEY, value TEXT NOT NULL)"
            )
            self._database.commit()
        except sqlite3.Error as error:
            raise self._explain(error) from error

    def get(self, key: str) -> dict[str, Any] | None:  # Any: the JSON of a reply
        """Return the reply to a request, or None."""
        with self._lock:
            row = self._database.execute("SELECT value FROM reply WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, key: str, reply: Mapping[str, Any]) -> None:  # Any: the JSON of a reply
        """Store a reply, durably, before returning."""
        with self._lock:
            try:
                self._database.execute(
                    "INSERT OR REPLACE INTO reply VALUES (?, ?)", (key, json.dumps(dict(reply)))
                )
                self._database.commit()
            except sqlite3.Error as error:
                raise self._explain(error) from error

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _explain(self, error: sqlite3.Error) -> StorageError:
        return StorageError(
            f"the teacher's cache {self.path} cannot be used ({error}); free some space, or delete "
            "the file to ask the teacher anew"
        )


def request_key(request: Mapping[str, Any]) -> str:  # Any: the JSON of a request
    """Return the content address of a request: the hash of its canonical JSON."""
    text = json.dumps(request, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
