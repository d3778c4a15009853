"""Findings for people, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from portable.lint.finding import Finding


def as_text(findings: Iterable[Finding]) -> str:
    """Return each finding: place, rule, message; the line with a mark below it; the remedy."""
    return "\n".join(map(_entry, findings))


def as_json(findings: Iterable[Finding], num_files: int, errors: Iterable[str]) -> str:
    """Return one JSON object; columns count from 1, the end excluded."""
    content = {"files": num_files, "errors": list(errors), "findings": [_record(item) for item in findings]}
    return json.dumps(content, indent=1, ensure_ascii=False)


def summary(findings: list[Finding], num_files: int) -> str:
    """Return the last line: how many findings in how many files, and how many can be mended."""
    if not findings:
        return f"no findings in {count(num_files, 'file')}"
    places = len({item.path for item in findings})
    safe = sum(item.fix is not None and item.fix.safe for item in findings)
    unsafe = sum(item.fix is not None and not item.fix.safe for item in findings)
    mended = f"; --fix mends {safe}" if safe else ""
    mended += f"; --unsafe-fixes mends {safe + unsafe}" if unsafe else ""
    return f"{count(len(findings), 'finding')} in {places} of {count(num_files, 'file')}{mended}"


def count(number: int, noun: str) -> str:
    """Return "1 file", "2 files"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _entry(finding: Finding) -> str:
    text = finding.source.expandtabs(1)
    lines = [f"{finding.place}: {finding.rule} {finding.message}"]
    if text.strip():
        indent = len(text) - len(text.lstrip())
        span = finding.span
        end = span.end_column if span.end_line == span.line else len(text)
        mark = " " * (span.column - indent) + "^" * max(1, end - span.column)
        lines += [f"    {text[indent:]}", f"    {mark}"]
    if finding.remedy:
        lines.append(f"  → {finding.remedy}")
    return "\n".join(lines)


def _record(finding: Finding) -> dict[str, Any]:
    span = finding.span
    record: dict[str, Any] = {
        "path": finding.path,
        "line": span.line,
        "column": span.column + 1,
        "end_line": span.end_line,
        "end_column": span.end_column + 1,
        "rule": finding.rule,
        "severity": finding.severity,
        "message": finding.message,
        "remedy": finding.remedy,
        "fix": None if finding.fix is None else "safe" if finding.fix.safe else "unsafe",
    }
    return record | ({"cell": finding.cell} if finding.cell else {})
