"""Findings as SARIF 2.1.0, which code hosts show beside the lines.

Source: OASIS, Static Analysis Results Interchange Format (SARIF) Version 2.1.0.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from portable import __version__
from portable.lint.finding import Finding
from portable.lint.rule import Catalogue, Rule

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def as_sarif(findings: Iterable[Finding], catalogue: Catalogue, errors: Iterable[str]) -> str:
    """Return one run of the tool: its rules, the results, and whether every file could be read."""
    positions = {name: number for number, name in enumerate(catalogue)}
    seen: Counter[str] = Counter()
    notes = [{"level": "error", "message": {"text": error}} for error in errors]
    run = {
        "tool": {
            "driver": {
                "name": "portable lint",
                "semanticVersion": __version__,
                "rules": [_rule(rule) for rule in catalogue.values()],
            }
        },
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {"ROOT": {"uri": Path.cwd().as_uri() + "/"}},
        "invocations": [{"executionSuccessful": not notes, "toolExecutionNotifications": notes}],
        "results": [_result(finding, positions[finding.rule], seen) for finding in findings],
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1, ensure_ascii=False)


def _rule(rule: Rule) -> dict[str, Any]:
    remedy = f"{rule.remedy} {rule.portable}".strip()
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.consequence},
        "help": {"text": remedy, "markdown": _help(rule)},
        "defaultConfiguration": {"level": rule.severity},
        "properties": {"tags": ["portability", rule.group]},
    }


def _help(rule: Rule) -> str:
    parts = [rule.consequence, f"**Instead:** {rule.remedy}"]
    parts += [f"```python\n{text.rstrip()}\n```" for text in rule.good[:1]]
    return "\n\n".join(parts)


def _result(finding: Finding, position: int, seen: Counter[str]) -> dict[str, Any]:
    span = finding.span
    region = {"startLine": span.line, "startColumn": span.column + 1}
    region |= {"endLine": span.end_line, "endColumn": span.end_column + 1}
    if finding.cell:  # the lines of a cell are none of the file's
        region = {"startLine": 1}
    cell = f" (cell {finding.cell}, line {span.line})" if finding.cell else ""
    return {
        "ruleId": finding.rule,
        "ruleIndex": position,
        "level": finding.severity,
        "message": {"text": f"{finding.message}{cell}. {finding.remedy}"},
        "locations": [{"physicalLocation": {"artifactLocation": _location(finding.path), "region": region}}],
        "partialFingerprints": {"primaryLocationLineHash": _fingerprint(finding, seen)},
    }


def _location(path: str) -> dict[str, str]:
    """Return the place relative to the working folder where that is possible, as code hosts want it."""
    place = Path(path).absolute()
    if place.is_relative_to(Path.cwd()):
        return {"uri": quote(place.relative_to(Path.cwd()).as_posix()), "uriBaseId": "ROOT"}
    return {"uri": place.as_uri()}


def _fingerprint(finding: Finding, seen: Counter[str]) -> str:
    """Return what stays the same when lines move: rule and text, and which of its equals this one is."""
    text = f"{finding.rule}:{' '.join(finding.source.split())}"
    seen[f"{finding.path}:{text}"] += 1
    return f"{hashlib.sha256(text.encode()).hexdigest()[:16]}:{seen[f'{finding.path}:{text}']}"
