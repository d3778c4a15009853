"""Which rules and files count: ``[tool.portable.lint]`` in ``pyproject.toml``, and the command line."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

from portable.core.errors import ConfigError, did_you_mean
from portable.lint.rule import UNUSED_IGNORE, Catalogue, check_ids, load_catalogue

_KEYS = ("select", "ignore", "exclude")
SKIPPED = frozenset(
    {".git", ".hg", ".svn", ".tox", ".nox", ".eggs", ".ipynb_checkpoints", "__pycache__", "__pypackages__"}
    | {"node_modules", "build", "dist", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
)


@dataclass(frozen=True, slots=True)
class Settings:
    """``select`` empty: all rules. ``exclude``: patterns of names, or of paths below ``root``."""

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    root: Path = Path()
    strict_ignores: bool = False

    def rules(self, catalogue: Catalogue) -> set[str]:
        """Return the ids that count."""
        chosen = set(self.select or catalogue) - set(self.ignore)
        return chosen if self.strict_ignores else chosen - {UNUSED_IGNORE}

    def excludes(self, path: Path) -> bool:
        """Return whether a pattern fits the name of ``path``, its path, or a folder above it."""
        if not self.exclude:
            return False
        try:
            inside = path.absolute().relative_to(self.root.absolute()).as_posix()
        except ValueError:
            inside = path.as_posix()
        patterns = [pattern.rstrip("/") for pattern in self.exclude]
        return any(
            fnmatch(path.name, item) or fnmatch(inside, item) or fnmatch(inside, f"{item}/*")
            for item in patterns
        )


@dataclass(frozen=True, slots=True)
class Override:
    """What the command line says: ``select`` replaces the file's, ``ignore`` and ``exclude`` add to it."""

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    strict_ignores: bool = False

    def apply(self, settings: Settings) -> Settings:
        """Return ``settings`` as the command line wants them."""
        return replace(
            settings,
            select=self.select or settings.select,
            ignore=settings.ignore + self.ignore,
            exclude=settings.exclude + self.exclude,
            strict_ignores=self.strict_ignores,
        )


@cache
def settings_for(folder: Path) -> Settings:
    """Return the settings of the nearest ``pyproject.toml`` that has some, in ``folder`` or above it.

    Raises: ConfigError if the file is damaged, or says what we do not know.
    """
    path = folder / "pyproject.toml"
    table = _table(path) if path.is_file() else None
    if table is not None:
        return _settings(table, path)
    return settings_for(folder.parent) if folder.parent != folder else Settings(root=folder)


def _table(path: Path) -> dict[str, Any] | None:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    tool = content.get("tool", {})
    portable = tool.get("portable", {}) if isinstance(tool, dict) else {}
    lint = portable.get("lint") if isinstance(portable, dict) else None
    if lint is not None and not isinstance(lint, dict):
        raise ConfigError(f"{path}: [tool.portable.lint] is a table")
    return lint


def _settings(table: dict[str, Any], path: Path) -> Settings:
    for name, value in table.items():
        if name not in _KEYS:
            raise ConfigError(f"{path}: [tool.portable.lint] has no '{name}'.{did_you_mean(name, _KEYS)}")
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{path}: [tool.portable.lint] {name} is a list of texts")
    for name in ("select", "ignore"):
        check_ids(table.get(name, []), load_catalogue())
    select, ignore, exclude = (tuple(table.get(name, ())) for name in _KEYS)
    return Settings(select, ignore, exclude, path.parent)
