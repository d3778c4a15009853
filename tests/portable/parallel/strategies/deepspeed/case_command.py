"""The command line on every rank of a group."""

from __future__ import annotations

import contextlib
import io

from portable.cli.main import main


def call(*words: str) -> tuple[int, str]:
    """Return the exit code of ``portable WORDS``, and what it said."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        code = main(list(words))
    return code, told.getvalue()
