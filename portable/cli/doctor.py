"""``portable doctor``: what this machine has, what can be used, and what would make the rest usable."""

from __future__ import annotations

import json
import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from portable.core.errors import BackendUnavailable, ConfigError
from portable.core.text import format_bytes
from portable.device.select import GROUP, backend_names, load_backend

if TYPE_CHECKING:
    from rich.console import Console

_KNOWN = {"--json"}


def run_doctor(arguments: list[str]) -> int:
    """Print findings, as text or with ``--json``; returns 0 if some device is usable, else 1."""
    unknown = [word for word in arguments if word not in _KNOWN]
    if unknown:
        raise ConfigError(f"portable doctor does not take '{unknown[0]}'; it takes --json or nothing")
    findings = examine()
    if "--json" in arguments:
        json.dump(findings, sys.stdout, indent=1, sort_keys=True)
        print()
    else:
        _print(findings)
    return 0 if any(backend["usable"] for backend in findings["backends"]) else 1


def examine() -> dict[str, Any]:  # Any: JSON values
    """Look at backends, hardware files and packages."""
    from portable.config.load import load
    from portable.config.search_path import conf_dir
    from portable.job.environment import package_versions
    from portable.job.machine import look_for

    hardware: list[dict[str, Any]] = []  # Any: JSON values
    for file in sorted((conf_dir() / "hardware").glob("*.yaml")):
        spec = load("chat", [f"hardware={file.stem}", "model_path=none"]).hardware
        found = look_for(spec)
        usable = spec.backend in backend_names() and load_backend(spec.backend).probe().usable
        hardware.append(
            {
                "name": spec.name,
                "title": spec.title,
                "usable": usable,
                "looked_for": found.looked_for,
                "found": found.found,
                "remedy": "" if usable else f"install {spec.probe.install}",
            }
        )
    return {
        "packages": package_versions(),
        "backends": [_examine_backend(name) for name in backend_names()],
        "hardware": hardware,
    }


def _examine_backend(name: str) -> dict[str, Any]:  # Any: JSON values
    point = next(point for point in entry_points(group=GROUP) if point.name == name)
    row: dict[str, Any] = {  # Any: JSON values
        "name": name,
        "provided_by": point.dist.name if point.dist else "?",
        "usable": False,
    }
    try:
        backend = load_backend(name)
        probe = backend.probe()
        row |= {"looked_for": probe.looked_for, "found": probe.found, "remedy": probe.remedy}
        if not probe.usable:
            return row
        device = backend.device()
    except (ImportError, BackendUnavailable) as error:  # a broken plug-in is a finding, not a crash
        return row | {
            "looked_for": "its package",
            "found": str(error),
            "remedy": f"install {row['provided_by']} again",
        }
    info, memory, capability = device.info(), device.memory(), device.capability()
    return row | {
        "usable": True,
        "device": {"name": info.name, "vendor": info.vendor, "arch": info.arch, "num_cores": info.num_cores},
        "count": device.count(),
        "memory": {"total_bytes": memory.total_bytes, "free_bytes": memory.free_bytes},
        "matmul_dtypes": {dtype: support.name for dtype, support in capability.matmul_dtypes.items()},
        "strategies": capability.strategies,
        "engines": capability.engines,
        "communicator": capability.communicator,
    }


def _print(findings: dict[str, Any]) -> None:  # Any: JSON values, from examine
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for backend in findings["backends"]:
        _print_backend(console, backend)
    table = Table("hardware", "usable here", "looked for", "found", title="hardware=", title_justify="left")
    for row in findings["hardware"]:
        table.add_row(row["name"], "yes" if row["usable"] else "no", row["looked_for"], row["found"])
    console.print(table)
    versions = ", ".join(f"{name} {number}" for name, number in findings["packages"].items())
    console.print(f"packages: {versions}", highlight=False)


def _print_backend(console: Console, backend: dict[str, Any]) -> None:  # Any: JSON values, from examine
    if not backend["usable"]:
        console.print(
            f"[bold]{backend['name']}[/]: not usable: looked for {backend['looked_for']}; "
            f"found {backend['found']}"
        )
        return
    device, memory = backend["device"], backend["memory"]
    console.print(
        f"[bold]{backend['name']}[/]: {device['name']} ({device['arch']}), {device['num_cores']} cores, "
        f"{format_bytes(memory['free_bytes'])} free of {format_bytes(memory['total_bytes'])}",
        highlight=False,
    )
    dtypes = ", ".join(f"{dtype} {support}" for dtype, support in backend["matmul_dtypes"].items())
    console.print(f"  number formats: {dtypes}; communicator: {backend['communicator']}", highlight=False)
    for kind in ("strategies", "engines"):
        for name, reason in backend[kind].items():
            console.print(
                f"  {kind[:-3] + 'y' if kind == 'strategies' else 'engine'} {name}: {reason or 'usable'}",
                highlight=False,
            )
