"""What a stage's result depends on, as one hash: settings, inputs, machine, code.

Equal keys mean equal results, so a stage whose artefact stands under its key is not run again; a change in
any of the four gives another key, so nothing stale is ever reused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from portable.core.artefact import Artefact
from portable.core.errors import ConfigError, did_you_mean
from portable.data.config import DataConfig
from portable.data.identity import source_identity
from portable.job.schema import MachineConfig
from portable.job.stage import Stage

T = TypeVar("T")
_MARK = "@"


def references(config: Any) -> list[str]:  # Any: a stage's config, or any value inside it
    """Return the names of the stages whose artefacts ``config`` asks for, in order of appearance."""
    if isinstance(config, str):
        return [config.removeprefix(_MARK)] if config.startswith(_MARK) else []
    if is_dataclass(config):
        values = [getattr(config, item.name) for item in fields(config)]
    elif isinstance(config, dict):
        values = list(config.values())
    elif isinstance(config, list):
        values = list(config)
    else:
        return []
    return [name for value in values for name in references(value)]


def resolve(config: T, made: Mapping[str, Artefact]) -> T:
    """Return ``config`` with every ``@stage`` replaced by the path of that stage's artefact."""
    return _substitute(config, {name: str(artefact.path) for name, artefact in made.items()})


def stage_key(
    stage: Stage,
    config: Any,  # Any: the stage's own config
    machine: MachineConfig,
    made: Mapping[str, Artefact],
) -> str:
    """Return the 64 hex digits that name the result of ``stage``."""
    content = {
        "verb": stage.verb,
        "config": plain(_substitute(config, {name: artefact.digest for name, artefact in made.items()})),
        "machine": _machine(stage, machine),
        "code": code_digest(stage.code),
        "source": source_identity(config) if isinstance(config, DataConfig) else None,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def code_digest(packages: tuple[str, ...]) -> str:
    """Return the hash of the source of ``portable.<package>`` for each package, and of the backends."""
    root = Path(__file__).resolve().parents[1]
    folders = [root / name for name in packages] + [root.parent / "backends"]
    digest = hashlib.sha256()
    for file in sorted(file for folder in folders for file in folder.rglob("*.py")):
        digest.update(str(file.relative_to(root.parent)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _machine(stage: Stage, machine: MachineConfig) -> dict[str, Any]:  # Any: JSON values
    if not stage.needs:
        return {}
    parts: dict[str, Any] = {  # Any: names and configs
        "backend": machine.hardware.backend,
        "like": machine.hardware.like,
        "deterministic": machine.deterministic,
        "strategy": machine.strategy,
        "parallel": machine.parallel,
        "precision": machine.precision,
        "kernel": machine.kernel,
    }
    if "engine" in stage.needs:
        parts["engine"] = machine.engine
    return plain(parts)


def _substitute(config: Any, names: Mapping[str, str]) -> Any:  # Any: a config or a value inside it
    if isinstance(config, str) and config.startswith(_MARK):
        name = config.removeprefix(_MARK)
        if name not in names:
            known = ", ".join(names) or "none"
            raise ConfigError(
                f"'{config}' names a stage that has not run before this one.{did_you_mean(name, names)} "
                f"Earlier stages: {known}"
            )
        return names[name]
    if isinstance(config, dict):
        return {key: _substitute(value, names) for key, value in config.items()}
    if isinstance(config, list):
        return [_substitute(value, names) for value in config]
    if is_dataclass(config) and not isinstance(config, type):
        return replace(
            config, **{item.name: _substitute(getattr(config, item.name), names) for item in fields(config)}
        )
    return config


def plain(value: Any) -> Any:  # Any: a config's value in, a JSON value out
    """Return a config as JSON values."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
