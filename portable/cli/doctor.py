"""``portable doctor``: what this machine has, what can be used, and what would make the rest usable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from portable.core.errors import ConfigError
from portable.device.select import GROUP

_KNOWN = {"--json"}
_TORCH_GROUP = "torch.backends"  # what torch itself loads while it is imported
_TORCH_SWITCH = "TORCH_DEVICE_BACKEND_AUTOLOAD"
_IMPORT_TORCH = """
import sys
try:
    import torch
except (ImportError, RuntimeError) as error:  # torch wraps what an extension raised
    sys.exit(str(error.__cause__ or error))
"""
_TIMEOUT_S = 120.0
Row = dict[str, Any]  # Any: JSON values


def run_doctor(arguments: list[str]) -> int:
    """Print findings, as text or with ``--json``; returns 0 if a device is usable and nothing is broken."""
    unknown = [word for word in arguments if word not in _KNOWN]
    if unknown:
        raise ConfigError(f"portable doctor does not take '{unknown[0]}'; it takes --json or nothing")
    report = examine()
    if "--json" in arguments:
        json.dump(report, sys.stdout, indent=1, sort_keys=True)
        print()
    else:
        from portable.cli.doctor_page import print_page

        print_page(report)
    return 0 if report["chosen"] and not report["problems"] else 1


def examine() -> Row:
    """Look at backends, hardware files, plug-ins and packages.

    Each backend is asked in a process of its own: it may be broken, and a process has room for one
    out-of-tree device type.
    """
    from portable.job.environment import package_versions

    registered = list(entry_points(group=GROUP))
    first = {point.name: point for point in reversed(registered)}  # who is found first has the name
    points = sorted(first.values())
    doubles = [_double(point, first[point.name]) for point in registered if point is not first[point.name]]
    groups = sorted(name for name in entry_points().groups if name.startswith("portable.") and name != GROUP)
    plugins = [point for group in groups for point in sorted(entry_points(group=group))]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        backends = list(pool.map(lambda point: _ask(point, "backend", point.name), points))
        others = list(pool.map(lambda point: _ask(point, "plugin", point.group, point.name), plugins))
    usable = [row for row in backends if row["state"] == "usable"]
    chosen = max(usable, key=lambda row: row["priority"], default=None)
    report: Row = {
        "packages": package_versions(),
        "chosen": chosen["hardware"] if chosen else "",
        "backends": backends,
        "plugins": [*(row for row in others if row["state"] == "broken"), *doubles],
        "hardware": [] if _breaks_configs(others) else _hardware(backends),
        "torch": _torch_finding(),
    }
    return report | {"problems": list(_problems(report))}


def _ask(point: EntryPoint, *words: str) -> Row:
    """Return what a process of its own says of the plug-in, or how that process failed."""
    owner = _owner(point)
    row: Row = {"name": point.name, "group": point.group, "provided_by": owner, "state": "loaded"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "answer.json"
        command = [sys.executable, "-W", "ignore", "-m", "portable.cli.examination", str(file), *words]
        error = _failure(command)
        if not error and file.is_file():
            return row | json.loads(file.read_text(encoding="utf-8"))
    remedy = f"pip install --force-reinstall {owner}, or pip uninstall {owner}"
    return row | {"state": "broken", "found": error or "it ended without an answer", "remedy": remedy}


def _double(point: EntryPoint, first: EntryPoint) -> Row:
    """Return the row of a backend whose name another package has."""
    owner, taken_by = _owner(point), _owner(first)
    return {
        "name": point.name,
        "group": point.group,
        "provided_by": owner,
        "state": "broken",
        "found": f"{owner} registers it, but so does {taken_by}, which is found first",
        "remedy": f"pip uninstall {owner}, or {taken_by}",
    }


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an unknown package"


def _failure(command: list[str], environment: dict[str, str] | None = None) -> str:
    """Run ``command``; return "" if it succeeds, else the last thing that it said."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=_TIMEOUT_S, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_TIMEOUT_S:.0f} s"
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    how = f"ended by signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    return lines[-1].strip() if lines and done.returncode > 0 else how


def _torch_finding() -> Row | None:
    """Tell if a device extension that torch loads by itself makes ``import torch`` fail.

    Portable switches that loading off for itself; other programs on this machine meet it.
    """
    owners = sorted({point.dist.name for point in entry_points(group=_TORCH_GROUP) if point.dist})
    if not owners:
        return None
    environment = {name: value for name, value in os.environ.items() if name != _TORCH_SWITCH}
    error = _failure([sys.executable, "-c", _IMPORT_TORCH], environment)
    if not error:
        return None
    text = f"{', '.join(owners)} loads itself into torch, which makes a plain 'import torch' fail: {error}"
    remedy = f"export {_TORCH_SWITCH}=0, which Portable does for itself, or install its driver"
    return {"level": "note", "subject": "import torch", "text": text, "remedy": remedy}


def _breaks_configs(plugins: list[Row]) -> bool:
    return any(row["group"] == "portable.conf" and row["state"] == "broken" for row in plugins)


def _hardware(backends: list[Row]) -> list[Row]:
    """Return every hardware file with whether its backend is usable here, and whether it fits the device."""
    from portable.config.load import choices, load
    from portable.job.machine import look_for

    states = {row["name"]: row for row in backends}
    rows: list[Row] = []
    for name in choices("hardware"):
        spec = load("chat", [f"hardware={name}", "model_path=none"]).hardware
        backend = states.get(spec.backend, {"state": "not installed", "hardware": "", "remedy": ""})
        usable = backend["state"] == "usable"
        looked = look_for(spec)
        rows.append(
            {
                "name": spec.name,
                "title": spec.title,
                "backend": spec.backend,
                "usable": usable,
                "fits": usable and backend["hardware"] == name,
                "looked_for": looked.looked_for,
                "found": looked.found,
                "remedy": "" if usable else backend["remedy"] or f"install {spec.probe.install}",
            }
        )
    return rows


def _problems(report: Row) -> list[Row]:
    """Return what will not work although it is meant to: broken plug-ins, and findings that are bad."""
    broken = [
        {"subject": f"{row['group']}: {row['name']}", "text": row["found"], "remedy": row["remedy"]}
        for row in [*report["backends"], *report["plugins"]]
        if row["state"] == "broken"
    ]
    bad = [
        {
            "subject": f"{row['name']}: {finding['subject']}",
            "text": finding["text"],
            "remedy": finding["remedy"],
        }
        for row in report["backends"]
        for finding in row.get("findings", [])
        if finding["level"] == "bad"
    ]
    return broken + bad
