"""The words after a verb: complaints that look alike, and the backend that they name."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, NoReturn

from portable.core.errors import ConfigError

if TYPE_CHECKING:
    from portable.device.backend import Backend


class WordParser(argparse.ArgumentParser):
    """Complains as every verb does, instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError."""
        raise ConfigError(f"{self.prog}: {message}; see {self.prog} --help")


def kernel_words(verb: str, arguments: list[str]) -> list[str] | None:
    """Return the words after ``kernels``, the one thing that ``verb`` takes so far; None to ask for help.

    Raises: ConfigError if something else stands there.
    """
    what, *rest = arguments or [""]
    if {"-h", "--help"} & {what, *rest}:
        return None
    if what != "kernels":
        raise ConfigError(f"portable {verb} takes what to {verb}: portable {verb} kernels, not '{what}'")
    return rest


def prepared_backend(name: str, *, deterministic: bool = False) -> Backend:
    """Return the backend ``name``, or the best usable one, with the variables set that it needs.

    Raises: BackendUnavailable with what would help.
    """
    from portable.device.select import detect_backend, load_backend

    backend = load_backend(name) if name else detect_backend()
    for variable, value in backend.environment(deterministic=deterministic).items():
        os.environ.setdefault(variable, value)
    return backend
