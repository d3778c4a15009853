"""The example chip of ``docs/examples``, installed as a user would, but beside this environment."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
INSTALL = "pip install docs/examples/acme"


def install_example(site: Path, command: str = INSTALL) -> Path:
    """Follow ``command`` with ``site`` for a target, without the network, and return ``site``."""
    variables = {"PIP_TARGET": str(site), "PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1"}
    words = shlex.split(f"{command} --no-build-isolation --quiet --disable-pip-version-check")
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return site
