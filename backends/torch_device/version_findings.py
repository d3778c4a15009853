"""From version tables to what ``portable doctor`` tells."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from portable.device.backend import Finding, Level
from portable.hardware.versions import VersionAnswer, check_versions, read_version_tables


def version_answers(tables: Path, found: Mapping[str, str | None]) -> list[VersionAnswer]:
    """Hold what was found against every table of the file."""
    return [check_versions(table, found) for table in read_version_tables(tables)]


def version_findings(tables: Path, found: Mapping[str, str | None]) -> list[Finding]:
    """Return one finding for each clash, and one for each table without any."""
    findings: list[Finding] = []
    for answer in version_answers(tables, found):
        findings += [
            Finding(
                Level.bad if clash.certain else Level.note,
                answer.subject,
                f"{clash.because} goes with {clash.name} {clash.wanted}; found {clash.found}"
                + ("" if clash.certain else f" (assumed: {clash.source})"),
                clash.remedy,
            )
            for clash in answer.clashes
        ]
        if not answer.clashes:
            text = ", ".join(answer.agreed) or "no version was found"
            if answer.unknown:
                text += "; not found: " + ", ".join(answer.unknown)
            level = Level.good if answer.agreed and not answer.unknown else Level.note
            findings.append(Finding(level, answer.subject, text))
    return findings
