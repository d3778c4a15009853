"""Logging to the terminal and to a run's own file."""

import logging
from pathlib import Path

from portable.core.storage import explain_os_errors

_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def setup_logging(level: str = "INFO", *, rank: int = 0) -> None:
    """Send our records to the terminal; ranks above 0 only report warnings."""
    from rich.logging import RichHandler

    root = logging.getLogger("portable")
    root.setLevel(level if rank == 0 else "WARNING")
    root.propagate = False
    for handler in list(root.handlers):
        root.removeHandler(handler)
    handler = RichHandler(show_path=False, markup=False, rich_tracebacks=False, log_time_format="%H:%M:%S")
    root.addHandler(handler)
    logging.getLogger("backends").parent = root


def log_to_file(path: Path) -> logging.Handler:
    """Copy our records into ``path``; returns the handler, to be closed with ``stop_logging_to``."""
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(_FORMAT))
    logging.getLogger("portable").addHandler(handler)
    return handler


def stop_logging_to(handler: logging.Handler) -> None:
    """Detach and close a handler that ``log_to_file`` returned."""
    logging.getLogger("portable").removeHandler(handler)
    handler.close()
