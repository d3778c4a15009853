"""A progress bar for people who watch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator


@contextlib.contextmanager
def progress_bar(
    title: str, done: int, total: int, *, show: bool
) -> Generator[Callable[[float | None], None]]:
    """Yield what to call after each step, with the loss where known; without ``show`` nothing is drawn."""
    if not show:
        yield lambda loss: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task(title, total=total, completed=done, loss="  -  ")

        def advance(loss: float | None) -> None:
            if loss is None:
                progress.advance(task)
            else:
                progress.update(task, advance=1, loss=f"{loss:.3f}")

        yield advance
