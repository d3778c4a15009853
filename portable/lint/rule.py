"""The rules and their texts, read from ``conf/lint`` and from the ``lint`` folders of installed packages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from portable.config.search_path import conf_dir, plugin_conf_dirs
from portable.core.errors import ConfigError, did_you_mean
from portable.lint.check.kinds import make_check
from portable.lint.check.match import Check
from portable.lint.vocabulary import Words

SEVERITIES = ("error", "warning", "note")
UNREADABLE = "E001"  # a file or cell that does not parse
UNUSED_IGNORE = "E002"
# The C loader is five times as fast; builds of PyYAML without libyaml lack it.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # Any: yaml has no types


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One fault: what it is, what follows from it, what to write instead."""

    id: str
    group: str  # the folder of its file
    title: str
    severity: str
    consequence: str
    remedy: str  # in plain torch
    portable: str = ""  # with Portable's layer
    bad: tuple[str, ...] = ()
    good: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()


Catalogue = Mapping[str, Rule]


@cache
def load_catalogue() -> Catalogue:
    """Return all rules by id, in order.

    Raises: ConfigError if a file is damaged, or an id is used twice.
    """
    return read_catalogue([conf_dir() / "lint", *(folder / "lint" for folder in plugin_conf_dirs().values())])


def read_catalogue(folders: list[Path]) -> Catalogue:
    """Return the rules of ``folders``, made with the words of all of them."""
    words = _read_words(folders)
    rules: dict[str, Rule] = {}
    for folder in folders:
        for path in sorted(folder.glob("*/*.yaml")):
            if path.parent.name != "word":
                rule = _read_rule(path, words)
                if rule.id in rules:
                    raise ConfigError(f"{path}: there is a rule {rule.id} already; take another id")
                rules[rule.id] = rule
    return {name: rules[name] for name in sorted(rules)}


def check_ids(ids: list[str], catalogue: Catalogue) -> None:
    """Raise a ConfigError if one of ``ids`` is no rule."""
    for name in ids:
        if name not in catalogue:
            raise ConfigError(
                f"there is no rule '{name}'.{did_you_mean(name, catalogue)} Rules: {', '.join(catalogue)}"
            )


def _read_words(folders: list[Path]) -> Words:
    words: dict[str, list[str]] = defaultdict(list)
    for folder in folders:
        for path in sorted(folder.glob("word/*.yaml")):
            for name, items in _read(path).items():
                words[name] += [str(item) for item in items if str(item) not in words[name]]
    return {name: tuple(items) for name, items in words.items()}


def _read_rule(path: Path, words: Words) -> Rule:
    content = _read(path)
    known = {field.name for field in fields(Rule)} - {"group", "id"}
    for name in content:
        if name not in known:
            raise ConfigError(f"{path}: a rule has no '{name}'.{did_you_mean(name, known)}")
    if content.get("severity") not in SEVERITIES:
        raise ConfigError(f"{path}: severity is one of {', '.join(SEVERITIES)}")
    try:
        texts = {name: " ".join(value.split()) for name, value in content.items() if isinstance(value, str)}
        return Rule(
            id=path.stem,
            group=path.parent.name,
            title=texts["title"],
            severity=texts["severity"],
            consequence=texts["consequence"],
            remedy=texts["remedy"],
            portable=texts.get("portable", ""),
            bad=tuple(content.get("bad", ())),
            good=tuple(content.get("good", ())),
            checks=tuple(make_check(entry, words) for entry in content.get("checks", ())),
        )
    except KeyError as error:
        raise ConfigError(f"{path}: the rule has no {error}") from error
    except (ConfigError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected keys and values")
    return content
