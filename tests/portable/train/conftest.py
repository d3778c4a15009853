from __future__ import annotations

from collections.abc import Iterator

import pytest
import rich


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Iterator[pytest.CaptureFixture[str]]:
    """A terminal of 120 columns that rich draws on, and that can be read."""
    rich.reconfigure(force_terminal=True, width=120)
    yield capsys
    rich.reconfigure()
