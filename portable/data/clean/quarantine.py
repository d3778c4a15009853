"""What could not be read: counted and written down with file and line, or fatal when the run is strict."""

from __future__ import annotations

import json
from pathlib import Path

from portable.core.errors import DataError
from portable.core.storage import explain_os_errors


class QuarantineFile:
    """Appends a line for each broken piece to a JSON Lines file, which exists only if there is one."""

    def __init__(self, path: Path, *, strict: bool) -> None:
        self.path = path
        self.strict = strict
        self.count = 0

    def __call__(self, file: str, line: int | None, reason: str, text: str) -> None:
        """Record one broken piece. Raises: DataError naming it, if the run is strict."""
        if self.strict:
            place = file if line is None else f"{file}, line {line}"
            raise DataError(
                f"data.strict=true and {place} cannot be read: {reason}; mend it, or set data.strict=false "
                f"to set such pieces aside in {self.path.name}"
            )
        self.count += 1
        row = {"file": file, "line": line, "reason": reason, "text": text}
        with explain_os_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
