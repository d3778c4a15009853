"""What came of an examination, as lines for people, as JSON, and as a table in a page of the docs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from portable.kernel.conformance.check import RowReport
from portable.kernel.entry import KernelEntry

_INTRODUCTION = """\
## Kernels

Every row of every op is asked the cases of `portable/kernel/conformance/cases`: sizes of 0, 1, odd and
large, strided and expanded memory, extreme values, infinities, mixed number formats. A number is the row's
worst error against float64 on the CPU, as a multiple of the reference's own error on that device (or of half
a unit in the last place, if that is larger); gradients count like results. `-` stands for a format that the
row or the device does not compute in. A case is refused if the row says beforehand, with a reason, that it
does not take it. `portable verify kernels` repeats this on your machine."""


@dataclass(frozen=True, slots=True)
class Examined:
    """A row and its reports by dtype."""

    entry: KernelEntry
    reports: dict[str, RowReport]

    @property
    def passed(self) -> bool:
        """Whether no case failed in any dtype."""
        return all(report.passed for report in self.reports.values())

    @property
    def num_run(self) -> int:
        """How many cases were run in all dtypes."""
        return sum(report.num_run for report in self.reports.values())

    @property
    def num_refused(self) -> int:
        """How many cases the row refused in all dtypes."""
        return sum(report.num_refused for report in self.reports.values())

    def cell(self, dtype: str) -> str:
        """Return the worst error in ``dtype``, or how many cases failed."""
        report = self.reports.get(dtype)
        if report is None or not report.num_run:
            return "-"
        return f"{report.worst:.2f}" if report.passed else f"{len(report.failures)} FAILED"


def title(entry: KernelEntry) -> str:
    """Return the start of a row's line."""
    return f"{entry.spec.id:<30} {entry.name:<32} "


def line(examined: Examined, dtypes: Sequence[str]) -> str:
    """Return the rest of a row's line."""
    cells = "  ".join(f"{dtype} {examined.cell(dtype):>9}" for dtype in dtypes)
    refused = f", {examined.num_refused} refused" if examined.num_refused else ""
    return f"{cells}  {examined.num_run:>4} cases{refused}"


def failures(examined: Examined) -> list[str]:
    """Return a line for each failed case."""
    return [
        f"{result.case} in {dtype}, row {examined.entry.name} ({examined.entry.target}): {result.reason}"
        for dtype, report in examined.reports.items()
        for result in report.failures
    ]


def to_json(rows: Iterable[Examined]) -> list[dict[str, Any]]:  # Any: JSON values
    """Return plain JSON values: a record for each row and dtype."""
    return [
        {
            "op": row.entry.spec.id,
            "row": row.entry.name,
            "backend": row.entry.backend,
            "target": row.entry.target,
            "dtype": dtype,
            "passed": report.passed,
            "worst_ratio": report.worst,
            "tolerance": row.entry.tolerance,
            "num_run": report.num_run,
            "refused": sorted(
                {result.reason for result in report.results if result.verdict.name == "refused"}
            ),
            "failed": {result.case: result.reason for result in report.failures},
        }
        for row in rows
        for dtype, report in row.reports.items()
    ]


def markdown(rows: Sequence[Examined], dtypes: Sequence[str], title: str) -> str:
    """Return a table with a row of each kernel row that was asked anything."""
    head = [
        f"### {title}",
        "",
        f"| op | row | {' | '.join(dtypes)} | cases | refused |",
        f"|---|---|{'---:|' * (len(dtypes) + 2)}",
    ]
    body = [
        f"| {row.entry.spec.id} | {row.entry.name} | {' | '.join(map(row.cell, dtypes))} "
        f"| {row.num_run} | {row.num_refused} |"
        for row in rows
        if row.num_run
    ]
    return "\n".join([*head, *body])


def with_block(page: str, backend: str, table: str) -> str:
    """Return ``page`` with the table of ``backend`` in place of its former one; other tables stay.

    The section is added at the end of a page that has none.
    """
    start, end = f"<!-- kernels of {backend} -->", f"<!-- end of kernels of {backend} -->"
    block = f"{start}\n{table}\n{end}"
    if start in page:
        pattern = re.escape(start) + ".*?" + re.escape(end)
        return re.sub(pattern, lambda _: block, page, count=1, flags=re.DOTALL)
    section = kernel_section(page)
    if not section:
        return f"{page.rstrip()}\n\n{_INTRODUCTION}\n\n{block}\n"
    return page.replace(section, f"{section.rstrip()}\n\n{block}\n\n").rstrip() + "\n"


def kernel_section(page: str) -> str:
    """Return the section about kernels, up to the next one, or ""."""
    found = re.search(r"^## Kernels\n.*?(?=^## |\Z)", page, flags=re.DOTALL | re.MULTILINE)
    return found.group(0) if found else ""
