"""Schedules as CSV files in torch's format: a row for every rank, an action in every cell."""

from __future__ import annotations

import csv
from pathlib import Path

from portable.core.errors import ConfigError
from portable.parallel.pipeline.schedule.action import Action, parse_actions
from portable.parallel.pipeline.schedule.table import Table, make_table


def read_table(path: Path) -> Table:
    """Return the checked table of a file. Empty cells, transfers and shardings are passed over.

    Raises: ConfigError, naming row and cell, if the file is not there or is no schedule that can be run.
    """
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            cells = [row for row in csv.reader(lines) if row]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"parallel.pipeline_parallel_schedule_csv={path} cannot be read: {error}; name a text file with "
            "a row of actions for every rank"
        ) from error
    rows: list[list[Action]] = []
    for rank, row in enumerate(cells):
        rows.append([])
        for place, word in enumerate(row):
            actions = parse_actions(word)
            if actions is None:
                raise ConfigError(
                    f"{path}: row {rank}, cell {place}: '{word}' is no action; write stage, F, B, I or W, "
                    "and micro-batch, e.g. 2F0"
                )
            rows[-1] += actions
    return make_table(str(path), rows)


def write_table(table: Table, path: Path) -> None:
    """Write a file that ``read_table``, and torch, read."""
    with path.open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerows([str(action) for action in row] for row in table.rows)
