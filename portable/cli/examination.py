"""What ``portable doctor`` asks in a process of its own: of one backend, or of one other plug-in.

``python -m portable.cli.examination FILE backend NAME``, or ``FILE plugin GROUP NAME``, writes JSON to FILE.
A plug-in may fail in any way while it is loaded; its process then ends, and the end is the finding.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from portable.config.search_path import GROUP as CONF_GROUP
from portable.config.search_path import plugin_conf_dirs
from portable.core.errors import PortableError
from portable.core.registry import load_target
from portable.device.backend import Finding, Level
from portable.device.select import load_backend

if TYPE_CHECKING:
    from portable.device.backend import Backend
    from portable.device.protocol import Device


def examine_backend(name: str) -> dict[str, Any]:  # Any: JSON values
    """Return what the backend looks for, finds and says, and, if it is usable, what its device can do."""
    backend = load_backend(name)
    probe = backend.probe()
    row: dict[str, Any] = {  # Any: JSON values
        "state": "usable" if probe.usable else "unusable",
        "priority": backend.priority,
        "hardware": probe.hardware,
        "looked_for": probe.looked_for,
        "found": probe.found,
        "remedy": probe.remedy,
        "first_use": probe.first_use,
    }
    findings = backend.findings()
    if probe.usable and not probe.first_use:  # a look must not cost minutes
        device = backend.device()
        row |= _describe(device)
        row["kernels"], broken = _kernels(backend)
        findings = [*findings, *broken]
    return row | {"findings": [_plain(finding) for finding in findings]}


def examine_plugin(group: str, name: str) -> dict[str, Any]:  # Any: JSON values
    """Load what the entry point ``name`` of ``group`` stands for, and return nothing if that works."""
    if group == CONF_GROUP:
        plugin_conf_dirs()
    else:
        (point,) = entry_points(group=group, name=name)
        load_target(point.value)
    return {}


def _describe(device: Device) -> dict[str, Any]:  # Any: JSON values
    memory = device.memory()
    return {
        "device": dataclasses.asdict(device.info()),
        "count": device.count(),
        "memory": dataclasses.asdict(memory),
        "capability": device.capability().to_json(),
    }


def _kernels(backend: Backend) -> tuple[dict[str, Any], list[Finding]]:  # Any: JSON values
    """Return the ranked rows by number format and op, and findings of rows that cannot be imported."""
    from portable.device.capability import Role, Support
    from portable.device.protocol import Dtype
    from portable.kernel.op import OPS
    from portable.kernel.registry import KernelSet

    capability = backend.device().capability()
    formats = [dtype.name for dtype in Dtype if capability.dtype(Role.matmul, dtype.name) is not Support.none]
    ranked: dict[str, Any] = {}  # Any: JSON values
    findings: dict[str, Finding] = {}
    for dtype in formats:
        kernels = KernelSet(backend.name, dtype)
        ranked[dtype] = {}
        for op in sorted(OPS, key=lambda op: op.id):
            rows = kernels.rank(op.name, op.variant)
            ranked[dtype][op.id] = [{"row": row.name, "why_not": row.reason} for row in rows]
            try:
                kernels.pick(op.name, op.variant)
            except (ImportError, AttributeError) as error:
                findings[op.id] = Finding(
                    Level.bad,
                    f"kernel {op.id}",
                    f"the row {rows[0].name} would be picked, but cannot be loaded: {error}",
                    f"install what it needs, or use kernel.rows.{op.id}=reference",
                )
    return ranked, list(findings.values())


def _plain(finding: Finding) -> dict[str, str]:
    return dataclasses.asdict(finding) | {"level": finding.level.value}


def main(words: Sequence[str]) -> None:
    """Examine what the words name, and write down the result."""
    file, kind, *names = words
    try:
        result = examine_backend(*names) if kind == "backend" else examine_plugin(*names)
    except PortableError as error:
        sys.exit(str(error))
    Path(file).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
