"""Write a row about a run of the contract tests on hardware into the marked table of ``docs/support.md``.

    python ci/device_row.py BACKEND RESULTS.xml [PAGE]

A run of the same backend on the same chip replaces its earlier row.
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

from portable.device.select import load_backend

PAGE = Path(__file__).parents[1] / "docs/support.md"
BEGIN, END = "<!-- device runs: begin -->", "<!-- device runs: end -->"
# Set by the emulator of an accelerator, whose runs are no evidence about hardware.
EMULATED = "PORTABLE_ASCEND_SOC"


def counts(results: Path) -> dict[str, int]:
    """Return how many tests of a JUnit file passed, failed and were skipped."""
    suites = list(ElementTree.parse(results).getroot().iter("testsuite"))
    total, failed, skipped = (
        sum(int(suite.get(name, "0")) for suite in suites for name in names)
        for names in (("tests",), ("failures", "errors"), ("skipped",))
    )
    return {"passed": total - failed - skipped, "failed": failed, "skipped": skipped}


def row(backend: str, chip: str, told: dict[str, int], revision: str) -> str:
    """Return the table's row of a run that ended today."""
    cells = (
        backend,
        chip,
        f"torch {version('torch')}",
        f"{told['passed']} passed, {told['failed']} failed, {told['skipped']} skipped",
        revision,
        datetime.now(UTC).date().isoformat(),
    )
    return f"| {' | '.join(cells)} |"


def with_row(page: str, new: str) -> str:
    """Return the page with the row, in place of an earlier one of the same backend and chip.

    Raises: ValueError if the page has no marked table.
    """
    if BEGIN not in page or END not in page:
        raise ValueError(f"the page has no table between '{BEGIN}' and '{END}'")
    before, rest = page.split(BEGIN, 1)
    table, after = rest.split(END, 1)
    same = " | ".join(new.split(" | ")[:2]) + " |"
    lines = [line for line in table.strip().splitlines() if not line.startswith(same)]
    return f"{before}{BEGIN}\n{chr(10).join([*lines, new])}\n{END}{after}"


def main(arguments: list[str]) -> int:
    """Run the script; returns the exit code."""
    if len(arguments) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    backend, results, page = (*arguments, str(PAGE))[:3]
    if EMULATED in os.environ:
        print(
            "this chip is emulated: its runs say nothing about hardware, so no row is written",
            file=sys.stderr,
        )
        return 1
    told = counts(Path(results))
    if not told["passed"] + told["failed"]:
        print("no test ran, so there is nothing to write", file=sys.stderr)
        return 1
    revision = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    new = row(backend, load_backend(backend).probe().found, told, revision)
    path = Path(page)
    path.write_text(with_row(path.read_text(encoding="utf-8"), new), encoding="utf-8")
    print(new)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
