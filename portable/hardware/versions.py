"""Which versions go together: tables in YAML, and what is found on a machine, held against each other.

A table is a list of rows. A row names what it needs as version ranges (PEP 440) and where that is written:

    - subject: a driver
      rows:
        - needs: {toolkit: ">=13,<14", driver: ">=580"}
          source: the maker's release notes, table 2
          remedy: {driver: install driver 580 or newer}

The first name that a row needs is its anchor: the found version of it chooses the row that is meant.
``assumed`` lists names whose range no source states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from portable.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One combination that is said to work; ``remedy`` says by name what to do where it is not given."""

    needs: Mapping[str, SpecifierSet]
    source: str
    remedy: Mapping[str, str]
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VersionTable:
    """All combinations of one subject that are said to work, the recommended ones first."""

    subject: str
    rows: tuple[VersionRow, ...]


@dataclass(frozen=True, slots=True)
class VersionClash:
    """A found version outside its range. ``certain`` is false where nobody states the range."""

    name: str
    found: str
    wanted: str
    because: str  # the anchor that chose the row, as "name version"
    remedy: str
    source: str
    certain: bool


@dataclass(frozen=True, slots=True)
class VersionAnswer:
    """What a table says of a machine. ``unknown`` names what the chosen row needs and nobody found."""

    subject: str
    agreed: tuple[str, ...]  # as "name version"
    unknown: tuple[str, ...]
    clashes: tuple[VersionClash, ...]
    source: str


def read_version_tables(path: Path) -> list[VersionTable]:
    """Read the tables of a YAML file. Raises: ConfigError that names the file for what is no such table."""
    try:
        return [_table(record) for record in yaml.safe_load(path.read_text(encoding="utf-8"))]
    except (KeyError, TypeError, AttributeError, InvalidSpecifier, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path} holds no version tables ({error!r}); write a list of records with 'subject' and 'rows'"
        ) from error


def _table(record: dict[str, Any]) -> VersionTable:  # Any: YAML values
    rows = tuple(
        VersionRow(
            needs={name: SpecifierSet(text, prereleases=True) for name, text in row["needs"].items()},
            source=row["source"],
            remedy=row.get("remedy", {}),
            assumed=tuple(row.get("assumed", ())),
        )
        for row in record["rows"]
    )
    return VersionTable(record["subject"], rows)


def check_versions(table: VersionTable, found: Mapping[str, str | None]) -> VersionAnswer:
    """Hold ``found`` (name to version, None for what is not there) against the row it comes nearest to.

    That is a row whose anchor agrees, if there is one, with the fewest clashes; the first of several.
    """
    row = min(table.rows, key=lambda row: _distance(row, found))
    anchor = next(iter(row.needs))
    because = f"{anchor} {found.get(anchor) or 'unknown'}"
    agreed: list[str] = []
    unknown: list[str] = []
    clashes: list[VersionClash] = []
    for name, wanted in row.needs.items():
        version = found.get(name)
        if version is None:
            unknown.append(name)
        elif _admits(wanted, version):
            agreed.append(f"{name} {version}")
        else:
            certain = name not in row.assumed
            remedy = row.remedy.get(name, f"install {name} {wanted}")
            clashes.append(VersionClash(name, version, str(wanted), because, remedy, row.source, certain))
    return VersionAnswer(table.subject, tuple(agreed), tuple(unknown), tuple(clashes), row.source)


def _distance(row: VersionRow, found: Mapping[str, str | None]) -> tuple[bool, int]:
    clashing = [
        name
        for name, wanted in row.needs.items()
        if (version := found.get(name)) is not None and not _admits(wanted, version)
    ]
    return next(iter(row.needs)) in clashing, len(clashing)


def _admits(wanted: SpecifierSet, version: str) -> bool:
    """Return whether ``version`` is in the range; one that nobody can read is not, so that it is told."""
    try:
        parsed = Version(version)
    except InvalidVersion:
        return False
    # Builds of one release ("2.13.0+cpu") are the release.
    return wanted.contains(parsed.public)
