"""From the report's data to one HTML page that needs nothing else: styles, charts, script stand inside it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from portable.core.text import format_bytes, format_seconds
from portable.job.report import figure, prose

_FILTERS = {
    "bytes": format_bytes,
    "number": prose.number,
    "seconds": format_seconds,
    "when": prose.when,
    "command": prose.shown_command,
    "teacher": prose.teacher_line,
}
_FUNCTIONS: dict[str, Any] = {  # Any: functions of every signature, called by the template
    "headline": prose.headline,
    "opening": prose.opening,
    "device_line": prose.device_line,
    "compression_sentence": prose.compression_sentence,
    "reward_sentence": prose.reward_sentence,
    "counted": prose.counted,
    "tone_of": figure.tone_of,
    "loss_chart": figure.loss_chart,
    "bits_chart": figure.bits_chart,
    "bits_rows": figure.bits_rows,
    "reward_chart": figure.reward_chart,
    "kl_chart": figure.kl_chart,
    "task_rows": figure.task_rows,
    "task_axis": figure.task_axis,
}


def render(report: Mapping[str, Any]) -> str:  # Any: JSON values, as build_report made them
    """Return the page. Every text of the report is escaped: documents and answers may hold any markup."""
    template = _environment().get_template("report.html.j2")
    return template.render(report=report, stages=report["stages"], titles=prose.VERB_TITLES)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    environment.globals.update(_FUNCTIONS)
    return environment
