"""The page of ``portable doctor``: what matters first, what would mend it last, all on one screen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from portable.core.text import format_bytes
from portable.device.capability import Capability, Role, Support

Row = dict[str, Any]  # Any: JSON values
_MARKS = {"good": "[green]✓[/]", "note": "[yellow]![/]", "bad": "[bold red]✗[/]"}


def print_page(report: Row, console: Console | None = None) -> None:
    """Print what ``portable.cli.doctor.examine`` found."""
    console = console or Console(highlight=False)
    console.print(_summary(report))
    for row in sorted(report["backends"], key=lambda row: row["state"] != "usable"):
        console.print()
        console.print(_title(row))
        console.print(_grid([*_abilities(row), *_findings(row)]))
    console.print()
    packages = ", ".join(f"{name} {number}" for name, number in report["packages"].items())
    console.print(_grid([*_hardware(report["hardware"]), ("packages", packages)]))
    if steps := list(_steps(report)):
        console.print("\n[bold]what would mend it[/]")
        console.print(_grid(steps))


def _grid(rows: list[tuple[str, str]]) -> Table:
    """Lay out marks or labels beside texts, so that long texts wrap in their own column."""
    grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in rows:
        grid.add_row(f"  {label}", text)
    return grid


def _summary(report: Row) -> str:
    usable = sum(row["state"] == "usable" for row in report["backends"])
    choice = f"hardware=auto takes {report['chosen']}" if report["chosen"] else "hardware=auto finds nothing"
    count = len(report["problems"])
    trouble = (
        f"[bold red]{count} problem{'s' if count > 1 else ''}, see the end[/]" if count else "no problems"
    )
    return f"[bold]{usable} of {len(report['backends'])} backends usable here[/], {choice}; {trouble}"


def _title(row: Row) -> str:
    name, mark = row["name"], _MARKS["good"]
    if row["state"] == "broken":
        return f"{_MARKS['bad']} [bold]{name}[/]  broken: {escape(row['found'])}"
    if row["state"] == "unusable":
        return f"- [bold]{name}[/]  not usable here: looked for {escape(row['looked_for'])}"
    if row["first_use"]:
        return f"{mark} [bold]{name}[/]  usable; at its first use {escape(row['first_use'])}"
    device, memory = row["device"], row["memory"]
    count = f"{row['count']} x " if row["count"] > 1 else ""
    size = f"{format_bytes(memory['free_bytes'])} free of {format_bytes(memory['total_bytes'])}"
    text = f"{count}{device['name']} ({device['arch']}), {device['num_cores']} cores, {size}"
    return f"{mark} [bold]{name}[/]  {escape(text)}"


def _abilities(row: Row) -> Iterator[tuple[str, str]]:
    if row["state"] == "unusable":
        yield "found", escape(row["found"])
        if row["remedy"]:
            yield "to use it", escape(row["remedy"])
    if "capability" not in row:
        return
    capability = Capability.from_json(row["capability"])
    yield "matmul", _grouped(capability.dtypes[Role.matmul])
    yield "collectives", f"{capability.communicator}: reductions {_grouped(capability.reduce_ops)}"
    yield "compiler", ", ".join(capability.compile_backends) or "none"
    yield from (("kernels", line) for line in _kernels(row["kernels"]))
    for kind, table in (("strategies", capability.strategies), ("engines", capability.engines)):
        usable = ", ".join(name for name, reason in table.items() if not reason)
        reasons = [f"not {name}: {reason}" for name, reason in table.items() if reason]
        yield kind, escape("; ".join([usable, *reasons]))


def _grouped(table: dict[str, Support]) -> str:
    groups = {support: [name for name, found in table.items() if found is support] for support in Support}
    return "; ".join(f"{support.name} {', '.join(names)}" for support, names in groups.items() if names)


def _kernels(ranked: Row) -> list[str]:
    """Return a line for each set of formats that get the same rows."""
    lines: dict[str, list[str]] = {}
    for dtype, ops in ranked.items():
        picked: dict[str, list[str]] = {}
        for op, rows in ops.items():
            if rows and not rows[0]["why_not"]:
                picked.setdefault(rows[0]["row"], []).append(op)
        picked["reference"] = picked.pop("reference", [])  # the rest comes last
        text = "; ".join(f"{name} for {', '.join(known)}" for name, known in picked.items() if known)
        lines.setdefault(text, []).append(dtype)
    return [f"{', '.join(dtypes)}: {text}" for text, dtypes in lines.items()]


def _findings(row: Row) -> Iterator[tuple[str, str]]:
    for finding in row.get("findings", []):
        if finding["text"] != row["found"]:  # which is told already
            yield f"{_MARKS[finding['level']]} {escape(finding['subject'])}", escape(finding["text"])


def _hardware(rows: list[Row]) -> Iterator[tuple[str, str]]:
    groups = {
        "hardware, this": [row["name"] for row in rows if row["fits"]],
        "of another size": [row["name"] for row in rows if row["usable"] and not row["fits"]],
        "not here": [row["name"] for row in rows if not row["usable"]],
    }
    yield from ((label, ", ".join(names)) for label, names in groups.items() if names)


def _steps(report: Row) -> Iterator[tuple[str, str]]:
    """Say what to do: for problems first, then for what was only noted of devices that are usable."""
    for problem in report["problems"]:
        text = f"{escape(problem['text'])}\n[bold]{escape(problem['remedy'])}[/]"
        yield f"{_MARKS['bad']} {escape(problem['subject'])}", text
    for row in report["backends"]:
        for finding in row["findings"] if row["state"] == "usable" else []:
            if finding["level"] == "note" and finding["remedy"]:
                yield (
                    f"{_MARKS['note']} {escape(row['name'])}, {escape(finding['subject'])}",
                    escape(finding["remedy"]),
                )
    if finding := report["torch"]:
        text = f"{escape(finding['text'])}\n{escape(finding['remedy'])}"
        yield f"{_MARKS['note']} {escape(finding['subject'])}", text
